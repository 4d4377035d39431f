"""Every script refuses flags that have no effect with the other ones, in one line."""

import importlib
import os
from pathlib import Path

import pytest
import torch
from conftest import in_process

from command_line.evaluation import context_of, load_network
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from system import ranks
from system.console import UsageError, UserError

COMPARE, IDENTIFY = ["compare", "a.wav", "b.wav"], ["identify", "--voices", "v", "a.wav"]
EVALUATORS = ("EER_full", "EER_short", "identification")
IMPORTED = " without --import_dir or --import_list"

REFUSED = [  # script, flags, the flag that has no effect, and the rest of the message
    *(
        (script, ["--checkpoint", "x.pth", flag, value], flag, "with --checkpoint")
        for script in EVALUATORS
        for flag, value in (("--n_folder", "0"), ("--cp_num", "3"), ("--model_path", "saved_model"))
    ),
    ("recognize", [*COMPARE, "--checkpoint", "x.pth", "--n_folder", "0"], "--n_folder", "with --checkpoint"),
    ("recognize", [*IDENTIFY, "--cp_num", "3", "--checkpoint", "x.pth"], "--cp_num", "with --checkpoint"),
    ("recognize", ["export", "o.pth", "--checkpoint", "x", "--model_path", "m"], "--model_path", "with --checkpoint"),
    *(
        (script, flags, flag, words)
        for script in ("train", *EVALUATORS)
        for flags, flag, words in (
            (["--device", "cpu", "--gpu", "1"], "--gpu", "unless --device is auto or cuda"),
            (["--device", "cuda:1", "--gpu", "1"], "--gpu", "unless --device is auto or cuda"),
            (["--use_cuda", "False", "--gpu", "0"], "--gpu", "with --use_cuda False"),
            (["--device", "cuda", "--use_cuda", "False"], "--use_cuda", "unless --device is auto"),
            (["--device", "cpu", "--use_cuda", "True"], "--use_cuda", "unless --device is auto"),
        )
    ),
    ("EER_short", ["--enroll", "m.txt"], "--enroll", "without --trials"),
    ("EER_short", ["--noise_dir", "d"], "--noise_dir", "without --noise_snr in dB"),
    *(
        ("EER_short", ["--save_path", "a", "b", flag, value], flag, "with several data roots")
        for flag, value in (("--save_scores", "s.csv"), ("--compare", "s.csv"), ("--as_norm", "9"))
    ),
    ("EER_short", ["--save_path", "a", "b", "--trials", "l", "m", "--enroll", "e"], "--enroll", "with several data"),
    ("EER_short", ["--noise_dir", "d", "--noise_snr", "clean"], "--noise_dir", "without --noise_snr in dB"),
    ("EER_short", ["--rir_dir", "d"], "--rir_dir", "without --reverb True"),
    ("EER_short", ["--rir_dir", "d", "--reverb", "False"], "--rir_dir", "without --reverb True"),
    ("train", ["--val_every", "1"], "--val_every", "without --val_trials"),
    ("train", ["--val_trials", "t.txt", "--max_epoch", "0"], "--val_trials", "with --max_epoch 0"),
    ("train", ["--loss_type", "softmax", "--use_GC", "True"], "--use_GC", "with --loss_type softmax"),
    ("train", ["--use_variable", "True", "--loss_type", "softmax"], "--use_variable", "with --loss_type softmax"),
    ("train", ["--augment_prob", "0.6"], "--augment_prob", "without --augment babble or noise or reverb"),
    ("train", ["--augment", "speed", "--augment_prob", "1"], "--augment_prob", "without --augment babble or noise"),
    ("train", ["--augment", "babble", "--noise_snr", "0", "15"], "--noise_snr", "without --augment noise"),
    ("train", ["--augment", "noise", "--babble_snr", "13", "20"], "--babble_snr", "without --augment babble"),
    ("train", ["--augment", "noise", "--music_snr", "5", "15"], "--music_snr", "without --noise_dir"),
    ("train", ["--augment", "reverb", "--noise_dir", "d"], "--noise_dir", "without --augment babble or noise"),
    ("train", ["--augment", "noise", "--rir_dir", "d"], "--rir_dir", "without --augment reverb"),
    ("dataprep", ["--demo", "--jobs", "4"], "--jobs", "without --download or --librispeech or --musan or --rirs"),
    ("dataprep", ["--check", "--retries", "8"], "--retries", "without --download"),
    ("dataprep", ["--demo", "--num_workers", "2"], "--num_workers", "without --convert or --librispeech"),
    ("dataprep", ["--musan", "--seed", "1"], "--seed", "without --demo or --librispeech or --make_trials"),
    ("dataprep", ["--demo", "--parts", "vox1_test"], "--parts", "without --download or --extract or --check"),
    *(("dataprep", ["--demo", flag, "x"], flag, "without --download") for flag in ("--source", "--key", "--password")),
    ("dataprep", ["--download", "--source", "huggingface", "--key", "x"], "--key", "with --source huggingface"),
    ("dataprep", ["--download", "--source", "official", "--user", "x"], "--user", "unless --source is a mirror"),
    ("dataprep", ["--download", "--source", "http://h", "--user", "x", "--key", "k"], "--user", "with --key"),
    ("dataprep", ["--download", "--source", "http://h", "--password", "x"], "--password", "without --user"),
    ("dataprep", ["--demo", "--parts_list", "x"], "--parts_list", "without --download"),
    ("dataprep", ["--demo", "--zip_list", "x"], "--zip_list", "without --download"),
    ("dataprep", ["--demo", "--delete_archives"], "--delete_archives", "without --extract or --librispeech"),
    ("dataprep", ["--demo", "--delete_m4a"], "--delete_m4a", "without --convert"),
    ("dataprep", ["--demo", "--openslr_url", "x"], "--openslr_url", "without --librispeech or --musan or --rirs"),
    ("dataprep", ["--import_list", "w", "--speaker_from", "1"], "--speaker_from", "without --import_dir"),
    ("dataprep", ["--import_dir", "d", "--utt2spk", "u"], "--utt2spk", "without --import_list"),
    ("dataprep", ["--demo", "--split", "train"], "--split", IMPORTED),
    ("dataprep", ["--demo", "--channel", "1"], "--channel", IMPORTED),
    ("dataprep", ["--demo", "--trim_silence", "False"], "--trim_silence", IMPORTED),
]  # fmt: skip

TAKEN = [  # nearly the same, where the flag does something
    ("EER_full", ["--n_folder", "0", "--cp_num", "3", "--model_path", "saved_model"]),
    ("EER_full", ["--enroll", "m.txt"]),  # the trial list has a default
    ("EER_short", ["--enroll", "m.txt", "--trials", "t.txt"]),
    ("EER_short", ["--noise_dir", "d", "--noise_snr", "clean", "5", "--reverb", "True", "--rir_dir", "d"]),
    ("identification", ["--use_cuda", "False"]),
    ("recognize", [*COMPARE, "--n_folder", "1", "--cp_num", "3"]),
    ("recognize", [*COMPARE, "--checkpoint", "x.pth"]),
    ("train", ["--val_every", "2", "--val_trials", "t.txt"]),
    ("train", ["--loss_type", "softmax", "--use_GC", "False", "--use_variable", "False"]),
    ("train", ["--loss_type", "softmax"]),  # defaults are not given
    ("train", "--augment noise,babble,reverb --noise_snr 0 9 --music_snr 0 9 --babble_snr 9 9 --noise_dir d".split()),
    ("dataprep", ["--librispeech", "dev-clean-2", "--jobs", "2", "--seed", "1", "--num_workers", "1"]),
    ("dataprep", ["--download", "--source", "http://h", "--user", "x", "--password", "-", "--parts", "vox1_test"]),
    ("dataprep", ["--demo", "--keep_m4a"]),  # nothing is removed
]


@pytest.mark.parametrize("script, argv, flag, words", REFUSED)
def test_a_flag_without_effect_is_refused_in_one_line(
    tmp_path: Path, script: str, argv: list[str], flag: str, words: str
) -> None:
    done = in_process(importlib.import_module(script).main, argv, tmp_path)
    assert done.status == 2 and done.is_one_line()
    assert done.stderr.startswith(f"{script}.py: {flag} has no effect {words.strip()}"), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script, argv", TAKEN)
def test_a_flag_with_effect_is_accepted(script: str, argv: list[str]) -> None:
    importlib.import_module(script).parse_args(argv)


def test_the_number_of_a_gpu_needs_one_process_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = importlib.import_module("train").parse_args
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--gpu has no effect on a machine without CUDA devices"):
        parse(["--gpu", "0"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parse(["--gpu", "1"]).gpu == 1 and parse(["--gpu", "1", "--device", "cuda"]).gpu == 1
    monkeypatch.setattr(ranks, "local_world_size", lambda: 2)
    with pytest.raises(UsageError, match="--gpu has no effect under torchrun"):
        parse(["--gpu", "1"])


@pytest.mark.parametrize(
    "known, given, refused", [("vox1", "vox2", True), ("vox1", "vox1", False), ("", "vox1", False)]
)
def test_a_checkpoint_that_knows_its_data_contradicts_the_flag(
    tmp_path: Path, known: str, given: str, refused: bool
) -> None:
    state = state_dict_of(Encoder("resnet18"), None)
    save_checkpoint(tmp_path / "model.pth", Checkpoint(1, state, data_type=known))
    args = importlib.import_module("EER_full").parse_args(
        ["--checkpoint", str(tmp_path / "model.pth"), "--data_type", given, "--save_path", str(tmp_path)]
    )
    message = f"--data_type {given}: .*model.pth was trained on {known}; omit the flag" if refused else "no features in"
    with pytest.raises(Exception, match=message) as error:
        context_of(args, load_network(args))
    assert isinstance(error.value, UsageError) == refused


@pytest.mark.parametrize("script", ["EER_full", "EER_short"])
def test_scores_that_cannot_be_written_are_an_error_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    (tmp_path / "file").touch()
    main, flags = importlib.import_module(script).main, ["--save_path", str(tmp_path / "no_data"), "--save_scores"]
    with pytest.raises(OSError, match="file"):
        main([*flags, str(tmp_path / "file" / "s.csv")])
    with pytest.raises(UsageError, match="a folder; add a file name"):
        main([*flags, str(tmp_path)])
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write anywhere
    with pytest.raises(UserError, match="new: not writable; change its permissions or choose another --save_scores"):
        main([*flags, str(tmp_path / "new" / "s.csv")])


@pytest.mark.parametrize("script", ["EER_full", "EER_short"])
@pytest.mark.parametrize("flag", ["--trials", "--enroll", "--compare", "--checkpoint"])
def test_scores_never_overwrite_an_input(tmp_path: Path, script: str, flag: str) -> None:
    (tmp_path / "in.csv").write_text("kept")
    (tmp_path / "folder").mkdir()
    output = tmp_path / "folder" / ".." / "in.csv"
    flags = ["--trials", str(tmp_path / "other.txt"), flag, str(tmp_path / "in.csv"), "--save_scores", str(output)]
    with pytest.raises(UsageError, match="in.csv: is also an input"):
        importlib.import_module(script).main(flags)
    assert (tmp_path / "in.csv").read_text() == "kept"

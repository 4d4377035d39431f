"""Wrong flags and damaged files in one table: exit status, one-line message, and no other file changed."""

import csv
import importlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_wavs
from harness import RUN, TRAIN, copy_of, files_of, in_process, put, trained_folder

from configure import TREES, TRIALS_NAME
from dataset.features import read_feature
from model.checkpoint import checkpoint_path
from system.console import UserError, one_line
from training.logbook import add_row, compare_config, write_config

pytestmark = pytest.mark.slow
CHECKPOINT, LIST = checkpoint_path(RUN, 2), Path("data", TRIALS_NAME)
TRAINING, TEST = (Path("data", TREES[tree].feat) for tree in ("vox2_dev", "vox1_test"))
FEATURE = TEST / "id00031" / "v" / "00001.pkl"
AGAIN = [*TRAIN, "--use_checkpoint", "True", "--max_epoch", "3"]
NEW = [*TRAIN, "--n_folder", "8", "--max_epoch", "1"]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


def unchanged(home: Path) -> None:
    pass


def text(path: Path, content: str | bytes) -> Change:
    return lambda home: put(home / path, content)


def cut(path: Path, size: int) -> Change:
    return lambda home: put(home / path, (home / path).read_bytes()[:size])


def edited(edit: Callable[[dict], object]) -> Change:
    """Change the content of the newest checkpoint."""

    def change(home: Path) -> None:
        content = torch.load(home / CHECKPOINT, weights_only=True)
        content = edit(content) or content
        (home / CHECKPOINT).unlink()
        torch.save(content, home / CHECKPOINT)

    return change


def weight(value: object, name: str = "fc1") -> Change:
    return edited(lambda content: content["state_dict"].__setitem__(name, value))


def entry(name: str, value: object) -> Change:
    return edited(lambda content: content.__setitem__(name, value))


def momentum(value: object) -> Change:
    return edited(lambda content: content["optimizer"]["state"][3].__setitem__("momentum_buffer", value))


def rate(value: object) -> Change:
    return edited(lambda content: content["optimizer"]["param_groups"][0].__setitem__("lr", value))


def feature(path: Path, feat: np.ndarray, label: object = "id00031") -> Change:
    return text(path, pickle.dumps({"feat": feat, "label": label}, protocol=4))


def all_features(folder: Path, feat: np.ndarray) -> Change:
    def change(home: Path) -> None:
        for path in (home / folder).rglob("*.pkl"):
            feature(path, feat)(home)

    return change


NAN = np.full((210, 40), np.nan, np.float32)
PAIR = "0 id00030/v/00000.wav id00031/v/00000.wav\n1 id00030/v/00000.wav id00030/v/00001.wav\n"
FULL = ["--checkpoint", str(CHECKPOINT)]
IDENTIFY = [*FULL, "--nb_class_test", "2", "--n_query", "1", "--nb_episode", "2"]

CASES = [
    # flags
    ("train", [*NEW, "--nb_class_train", "100"], unchanged, 2, "needs 100 speakers with 2 or more utterances"),
    ("train", [*TRAIN, "--n_query", "0"], unchanged, 2, "--n_query 0: a prototypical episode needs queries"),
    ("train", [*NEW, "--n_query", "9"], unchanged, 2, "the data has 0"),
    ("train", [*TRAIN, "--n_shot", "0"], unchanged, 2, "--n_shot: '0' is not an integer from 1"),
    ("train", [*TRAIN, "--use_GC", "maybe"], unchanged, 2, "'maybe' is neither True nor False"),
    ("train", [*TRAIN, "--seed", "1" + 30 * "0"], unchanged, 2, "--seed: '1000000000000000000000000000000' is not"),
    ("train", [*TRAIN, "--num_workers", "1000000"], unchanged, 2, "--num_workers: '1000000' is not"),
    ("train", [*TRAIN, "--device", "cuda:77"], unchanged, 2, "cuda:77"),
    ("train", [*TRAIN, "--device", "toaster"], unchanged, 2, "--device toaster: no such device"),
    ("train", [*TRAIN, "--device", "meta"], unchanged, 2, "--device meta: no such device"),
    ("train", [*TRAIN, "--no\nsuch\x1b[31mflag"], unchanged, 2, r"--no\nsuch\x1b[31mflag"),
    *(
        ("train", [*TRAIN, flag, value], unchanged, 2, f"{flag}: '{value}' is not a number above 0")
        for flag in ("--lr", "--max_grad_norm", "--save_every_minutes")
        for value in ("nan", "inf", "-1", "0", "1e999", "ten")
    ),
    ("train", [*NEW, "--lr", "1e30"], unchanged, 1, "--max_grad_norm"),
    ("EER_short", [*FULL, "--test_length", "0"], unchanged, 2, "--test_length: '0' is not an integer from 1"),
    ("EER_short", [*FULL, "--test_length", "9" * 5000], unchanged, 2, "--test_length"),
    ("identification", [*IDENTIFY, "--nb_class_test", "50"], unchanged, 2, "needs 50 speakers with 2 or more utter"),
    ("identification", [*IDENTIFY, "--n_query", "0"], unchanged, 2, "--n_query: '0' is not an integer from 1"),
    ("dataprep", ["--import_list", ""], unchanged, 2, "--import_list: an empty name"),
    ("dataprep", ["--import_dir", ""], unchanged, 2, "--import_dir: an empty name"),
    # missing and empty trees
    ("dataprep", ["--save_path", "~nosuchuser/data", "--check"], unchanged, 1, "~nosuchuser/data: no such user"),
    ("train", [*NEW, "--save_path", "~nosuchuser/data"], unchanged, 1, "~nosuchuser/data: no such user"),
    ("train", [*NEW, "--save_path", "nowhere"], unchanged, 1, "no features in nowhere"),
    ("EER_full", [*FULL, "--save_path", "nowhere", "--trials", str(LIST)], unchanged, 1, "no features in nowhere"),
    ("feat_extract.feature_extraction", ["--save_path", "nowhere"], unchanged, 1, "nowhere: contains none of"),
    (
        "feat_extract.feature_extraction",
        ["--save_path", "new"],
        lambda home: (home / "new" / TREES["vox2_dev"].wav / "id1" / "v").mkdir(parents=True),
        1,
        "new: its wav folders contain no wavs",
    ),
    # runs and their folders
    ("train", TRAIN, unchanged, 1, "baseline_000: already contains a run"),
    ("train", [*AGAIN, "--n_folder", "9"], unchanged, 1, "no checkpoint"),
    ("train", [*AGAIN, "--backbone", "resnet34"], unchanged, 1, "its backbone is resnet18; add --backbone resnet18"),
    ("train", [*AGAIN, "--use_GC", "False"], unchanged, 1, "checkpoint_002.pth: does not fit --loss_type and --use_GC"),
    ("train", [*AGAIN, "--cp_num", "77"], unchanged, 1, "checkpoint_077.pth: no such checkpoint"),
    ("train", [*NEW, "--init", "nowhere.pth"], unchanged, 1, "nowhere.pth: no such checkpoint"),
    ("train", [*NEW, "--init", str(CHECKPOINT), "--backbone", "resnet50"], unchanged, 2, "its backbone is resnet18"),
    # checkpoints
    ("EER_full", [*FULL], cut(CHECKPOINT, 100_000), 1, "checkpoint_002.pth: truncated or corrupt"),
    ("EER_full", [*FULL], text(CHECKPOINT, b""), 1, "checkpoint_002.pth: truncated or corrupt"),
    ("EER_full", ["--checkpoint", str(LIST)], unchanged, 1, f"{LIST}: truncated or corrupt"),
    ("EER_full", ["--cp_num", "44"], unchanged, 1, "checkpoint_044.pth: no such checkpoint"),
    ("EER_full", FULL, edited(lambda content: [1, 2]), 1, "checkpoint_002.pth: not a checkpoint"),
    ("EER_full", FULL, entry("epoch", "three"), 1, "checkpoint_002.pth: not a checkpoint of this encoder: epoch"),
    ("EER_full", FULL, entry("epoch", -3), 1, "epoch"),
    ("EER_full", FULL, entry("epoch", True), 1, "epoch is no int"),
    ("EER_full", FULL, entry("n_utterances", -1), 1, "n_utterances"),
    ("EER_full", FULL, entry("n_utterances", 2.5), 1, "n_utterances is no int"),
    ("EER_full", FULL, entry("speakers", "id1"), 1, "speakers is no list"),
    ("EER_full", FULL, entry("speakers", [1, 2]), 1, "speakers"),
    ("EER_full", FULL, edited(lambda c: c["state_dict"].clear()), 1, "resnet18, resnet34"),
    ("EER_full", FULL, weight(torch.zeros(3, 3)), 1, "size mismatch"),
    ("EER_full", FULL, weight(torch.full((256, 256), float("nan"))), 1, "fc1 has NaN"),
    ("EER_full", FULL, weight(torch.zeros(256, 256, dtype=torch.complex64)), 1, "torch.complex64"),
    ("EER_full", FULL, weight(torch.zeros(256, 256).to_sparse()), 1, "fc1 is no plain tensor"),
    ("EER_full", FULL, weight([1.0]), 1, "fc1 is no plain tensor"),
    ("EER_full", FULL, weight(torch.zeros(1).expand(2**40, 256), "weight"), 1, "weight has more numbers"),
    ("EER_full", FULL, weight(torch.zeros(9, 8), "weight"), 1, "weight has shape (9, 8)"),
    ("EER_full", FULL, weight(torch.zeros(1), "intruder"), 1, "1 unexpected parameters: intruder"),
    ("EER_full", FULL, weight(torch.zeros(1), "pretrained.intruder"), 1, "unexpected parameters: pretrained.intruder"),
    ("EER_full", FULL, weight(torch.full((256, 256), 3e38)), 1, "not finite"),
    ("identification", IDENTIFY, weight(torch.full((256, 256), 3e38)), 1, "not finite"),
    ("train", [*AGAIN, "--cp_num", "2"], weight(torch.zeros(9, 256), "weight"), 1, "class vectors of 9 speakers"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("speakers", ["a", "b"]), 1, "trained on other speakers"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("optimizer", {"state": 3}), 1, "does not fit these flags and data"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("scheduler", {"best": "x"}), 1, "scheduler"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("episode", 10**6), 1, "1000000 completed episodes in an epoch of 4"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("sums", [1.0, 2.0]), 1, "sums"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("sums", {"loss": 1.0}), 1, "sums"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("sums", ["x"] * 5), 1, "sums"),
    ("train", [*AGAIN, "--cp_num", "2"], entry("sums", "x"), 1, "sums is no dict"),
    ("train", [*AGAIN, "--cp_num", "2"], momentum(torch.zeros(2)), 1, "momentum"),
    ("train", [*AGAIN, "--cp_num", "2"], momentum("x"), 1, "does not fit these flags and data"),
    ("train", [*AGAIN, "--cp_num", "2"], rate(float("nan")), 1, "learning rate is nan"),
    # features
    ("EER_full", FULL, feature(FEATURE, np.zeros((210, 39), np.float32)), 1, "00001.pkl: not a feature file (its arr"),
    ("EER_full", FULL, feature(FEATURE, np.zeros((0, 40), np.float32)), 1, "shape (0, 40), not (frames, 40)"),
    ("EER_full", FULL, feature(FEATURE, NAN), 1, "00001.pkl: not a feature file (contains NaN"),
    ("EER_full", FULL, feature(FEATURE, np.full((210, 40), 1e300)), 1, "00001.pkl: not a feature file (contains NaN"),
    ("EER_full", FULL, feature(FEATURE, np.zeros((210, 40), int)), 1, "its array is not float32 or float64"),
    ("EER_full", FULL, feature(FEATURE, NAN * 0 + 1, label=7), 1, "does not contain {'feat': array, 'label': speaker}"),
    ("EER_full", FULL, cut(FEATURE, 9000), 1, "00001.pkl: not a feature file"),
    ("EER_full", FULL, text(FEATURE, b""), 1, "00001.pkl: not a feature file"),
    ("train", NEW, text(TRAINING / "id00002" / "v" / "00003.pkl", b"junk"), 1, "00003.pkl: not a feature file"),
    ("train", NEW, all_features(TRAINING / "id00002", NAN), 1, ".pkl: not a feature file (contains NaN"),
    # trial lists
    ("EER_full", [*FULL, "--trials", "absent.txt"], unchanged, 1, "absent.txt: no such trial list"),
    ("EER_full", [*FULL, "--trials", "data"], unchanged, 1, "data: Is a directory"),
    ("EER_full", FULL, text(LIST, "1 a.wav\n" + PAIR), 1, "line 1: '1 a.wav' does not have the format"),
    ("EER_full", FULL, text(LIST, "1 a b c d e\n" + PAIR), 1, f"{LIST}: "),
    ("EER_full", FULL, text(LIST, "2 a/b/c.wav d/e/f.wav\n" + PAIR), 1, "line 1: '2 a/b/c.wav d/e/f.wav'"),
    ("EER_full", FULL, text(LIST, PAIR.splitlines()[0]), 1, "no target trials"),
    ("EER_full", FULL, text(LIST, PAIR.splitlines()[1]), 1, "only target trials"),
    ("EER_full", FULL, text(LIST, ""), 1, f"{LIST}: "),
    ("EER_full", FULL, text(LIST, "\r\n\r\n"), 1, f"{LIST}: "),
    ("EER_full", FULL, text(LIST, b"\xff\xfe1\x00"), 1, f"{LIST}: UTF-16"),
    ("EER_full", FULL, text(LIST, PAIR + "1 id7/v/1.wav id7/v/2.wav\n"), 1, "id7/v/1.wav: no such utterance"),
    ("EER_short", [*FULL, "--trials", "mine.txt"], text(Path("mine.txt"), ""), 1, "mine.txt: "),
]  # fmt: skip


@pytest.mark.parametrize("script, argv, change, status, message", CASES, ids=range(len(CASES)))
def test_errors_are_one_line_and_change_no_file(
    trained: Path, tmp_path: Path, script: str, argv: list[str], change: Change, status: int, message: str
) -> None:
    home = copy_of(trained, tmp_path / "home")
    change(home)
    before = files_of(home)
    outcome = in_process(importlib.import_module(script).main, argv, home)
    assert outcome.status == status and one_line(message) in outcome.stderr and outcome.is_one_line(), outcome.stderr
    after = files_of(home)
    assert all(after[name] == content for name, content in before.items() if not name.endswith(".index.npz"))
    assert not [name for name in after if name.endswith(".tmp")]


def run_again(home: Path) -> str:
    outcome = in_process(importlib.import_module("train").main, AGAIN, home)
    assert outcome.status == 0 and "Traceback" not in outcome.stderr
    assert checkpoint_path(home / RUN, 3).exists()
    return outcome.stderr


def test_training_continues_with_a_damaged_log_and_not_with_a_damaged_configuration(
    trained: Path, tmp_path: Path
) -> None:
    home = copy_of(trained, tmp_path / "home")
    put(home / RUN / "log.csv", b"\xff\x00\n1")
    assert "log.csv.damaged" in run_again(home)
    assert (home / RUN / "log.csv.damaged").read_bytes() == b"\xff\x00\n1"
    assert [row["epoch"] for row in csv.DictReader((home / RUN / "log.csv").open())] == ["3"]
    put(home / RUN / "config.json", "")
    outcome = in_process(importlib.import_module("train").main, [*AGAIN, "--save_path", "nowhere"], home)
    assert outcome.status == 1 and outcome.is_one_line() and "config.json: damaged" in outcome.stderr


@pytest.mark.parametrize("damaged", [b"epoch,loss\n1\n", b"a,b\n1,2\n", b'epoch,loss\n"1,2\n', b"epoch,loss\nx,2\n"])
def test_a_damaged_log_is_renamed(tmp_path: Path, damaged: bytes) -> None:
    put(tmp_path / "log.csv", damaged)
    add_row(tmp_path, {"epoch": 3, "loss": 0.5})
    assert (tmp_path / "log.csv.damaged").read_bytes() == damaged
    add_row(tmp_path, {"epoch": 4, "loss": float("nan")})
    add_row(tmp_path, {"epoch": 4, "loss": 0.25})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n3,0.5\n4,0.25\n"


def test_a_warning_names_changed_flags(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    outcome = in_process(importlib.import_module("train").main, [*AGAIN, "--seed", "5", "--lr", "0.5"], home)
    assert "--lr 0.5 (was 0.01), --seed 5 (was 100)" in outcome.stderr
    outcome = in_process(importlib.import_module("train").main, AGAIN, home)  # the learning rate was never 0.5
    assert "--seed 100 (was 5)" in outcome.stderr and "--lr" not in outcome.stderr


def test_all_flags_that_determine_the_weights_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "loss_type use_GC n_shot n_query use_variable nb_class_train data_type lr max_grad_norm scale_lr sync_bn seed "
        "precision augment augment_prob noise_snr music_snr babble_snr noise_dir rir_dir"
    ).split()
    write_config(tmp_path, dict.fromkeys(flags, 1), {}, [])
    assert compare_config(tmp_path, dict.fromkeys(flags, 2), {}) == dict.fromkeys(flags, 2) | {"lr": 1}
    warning = capsys.readouterr().err
    assert all(f"--{flag} 2 (was 1)" in warning for flag in flags) and warning.count("(was") == len(flags)
    for damaged in ("", "[]", '{"arguments": []}', '{"arguments": {"seed": 1}}'):
        put(tmp_path / "config.json", damaged)
        with pytest.raises(UserError, match="config.json: damaged"):
            compare_config(tmp_path, dict.fromkeys(flags, 2), {})


def test_repeated_trials_crlf_and_blank_lines_are_accepted(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    put(home / LIST, (PAIR + PAIR.splitlines()[0] + "\n\n").replace("\n", "\r\n"))
    outcome = in_process(importlib.import_module("EER_full").main, FULL, home)
    assert outcome.status == 0 and "1 of the 3 trials are repetitions" in outcome.stderr and outcome.is_one_line()
    assert "scored: 3 trials" in outcome.stdout


def test_a_damaged_or_malicious_index_is_rebuilt(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    stored = home / f"{TEST}.index.npz"
    intact = in_process(importlib.import_module("EER_full").main, FULL, home)
    table = dict(np.load(stored))
    malicious: list[dict[str, Any]] = [
        table | {"location": -table["location"]},
        table | {"location": table["location"][:3]},
        table | {"location": table["location"][:, :3]},
        table | {"location": table["location"] - [0, 10**6, 0, 0, 0]},
        table | {"location": table["location"].astype(np.int32)},
        table | {"name": table["name"][::-1]},
        table | {"name": np.array([{}, []], object)},
        {"name": table["name"]},
    ]
    damaged: list[dict[str, Any] | bytes] = [*malicious, b"", b"junk", stored.read_bytes()[:500]]
    for content in damaged:
        if isinstance(content, dict):
            stored.unlink()
            np.savez(stored, **content)
        else:
            put(stored, content)
        outcome = in_process(importlib.import_module("EER_full").main, FULL, home)
        assert (outcome.status, outcome.stdout, outcome.stderr) == (0, intact.stdout, "")


def test_lengths_of_one_frame(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    for script, argv in (
        ("EER_short", [*FULL, "--test_length", "1"]),
        ("identification", [*IDENTIFY, "--test_length", "1", "--enroll_length", "1"]),
    ):
        assert in_process(importlib.import_module(script).main, argv, home).status == 0


def write_bad_recordings(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Write recordings into a folder; return the error of each unusable one, and the names of the usable ones."""
    folder.mkdir(parents=True)
    good = np.random.default_rng(0).normal(0, 0.1, 16000)
    bad = {"silent": good * 0, "nan": good * np.nan, "empty": good[:0], "huge": good * 1e30}
    for name, samples in bad.items():
        soundfile.write(folder / f"{name}.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", good, 2)
    soundfile.write(folder / "cut.wav", good, 16000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:9000])
    (folder / "junk.wav").write_text("text")
    (folder / "nothing.wav").write_bytes(b"")
    (folder / "line\nend.wav").write_bytes(b"")
    converted = {"rate": (8000, "PCM_16"), "deep": (16000, "PCM_24"), "flat": (16000, "PCM_U8")}
    converted["float"] = (16000, "FLOAT")
    for name, (rate, subtype) in converted.items():
        soundfile.write(folder / f"{name}.wav", good[:rate], rate, subtype=subtype)
    soundfile.write(folder / "stereo.wav", np.stack([good, good], axis=1), 16000)
    errors = {"silent": "silent", "nan": "NaN", "empty": "no samples", "huge": "full scale", "slow": "rate 2 Hz"}
    errors |= {"cut": "truncated", "junk": "no readable audio", "nothing": "no readable", "line\nend": "no readable"}
    return errors, [*converted, "stereo"]


def test_extraction_skips_and_lists_unusable_wavs(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(1), 2)
    wavs, features = (tmp_path / "data" / folder / "id00009" / "v" for folder in TREES["vox2_dev"])
    errors, converted = write_bad_recordings(wavs)
    (wavs / os.fsdecode(b"no-utf8-\xff.wav")).write_bytes(b"")
    errors[os.fsdecode(b"no-utf8-\xff")] = "no readable"
    outcome = in_process(
        importlib.import_module("feat_extract.feature_extraction").main, ["--num_workers", "1"], tmp_path
    )
    assert outcome.status == 1 and f"7 files written, 0 existed already, {len(errors)} failed" in outcome.stdout
    converted_warning, failed_warning = outcome.stderr.splitlines()
    assert "5 wavs were not 16 kHz 16-bit mono" in converted_warning and "feature_errors.csv" in failed_warning
    with open(tmp_path / "data" / "feature_errors.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        reasons = {Path(row["file"]).stem: row["error"] for row in csv.DictReader(file)}
    assert set(reasons) == set(errors) and all(word in reasons[name] for name, word in errors.items())
    assert all(len(read_feature(features / f"{name}.pkl")) == 99 for name in converted)
    assert len(files_of(features)) == len(converted)


def test_unreadable_files_are_errors(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    for path, script, argv in (
        (FEATURE, "EER_full", FULL),
        (LIST, "EER_full", FULL),
        (CHECKPOINT, "EER_full", FULL),
    ):
        content = (home / path).read_bytes()
        put(home / path, content)
        (home / path).chmod(0)
        if os.access(home / path, os.R_OK):
            pytest.skip("the superuser, or a system without such permissions, reads everything")
        outcome = in_process(importlib.import_module(script).main, argv, home)
        assert outcome.status == 1 and path.name in outcome.stderr and outcome.is_one_line()
        put(home / path, content)

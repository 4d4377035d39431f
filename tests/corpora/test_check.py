"""dataprep.py --check prints the right next command for each state of the data, and these commands work."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_set import private_set
from conftest import PROJECT, here, write_features, write_wavs

from configure import TREES, TRIALS_NAME

MODEL = "--checkpoint pretrained/open_speech.pth"
TRIALS = "1 id00000/video0/00000.wav id00000/video1/00001.wav\n0 id00000/video0/00000.wav id00001/video0/00000.wav\n"


def wavs(tree: str, speakers: int = 3, utterances: int = 3) -> Callable[[Path], None]:
    return lambda root: write_wavs(root, tree, range(speakers), utterances, seconds=0.3)


def empty_wavs(tree: str, speakers: int, utterances: int) -> Callable[[Path], None]:
    """Write empty files with the names that `wavs` gives."""

    def write(root: Path) -> None:
        for speaker in range(speakers):
            for number in range(utterances):
                file(f"{TREES[tree].wav}/id{speaker:05d}/video{number % 2}/{number:05d}.wav")(root)

    return write


def features(tree: str, speakers: int = 3, utterances: int = 3) -> Callable[[Path], None]:
    """Write features of the utterances that `wavs` writes."""

    def write(root: Path) -> None:
        write_features(root / TREES[tree].feat, speakers, utterances, n_frames=30)
        for folder in (root / TREES[tree].feat).glob("*/v*"):
            folder.rename(folder.with_name(folder.name.replace("v", "video")))

    return write


def file(name: str, content: str = "") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)

    return write


def extracted(subset: str, counts: str = "id00000 3\n") -> Callable[[Path], None]:
    """Write the marker file of an extracted archive of LibriSpeech."""
    return file(f"{subset}.tar.gz.extracted", counts)


TEST, TRAIN, DEV = "vox1_test", "vox2_dev", "vox1_dev"
LIST = file(TRIALS_NAME, TRIALS)
BROKEN = f"{TREES[TEST].wav}/id00009/v/broken.wav"
BROKEN_M4A = f"{TREES[TEST].wav}/id00009/v/broken.m4a"
STATES: dict[str, tuple[list[Callable[[Path], None]], str]] = {  # files, next command
    "nothing": ([], "dataprep.py --download"),
    "VoxCeleb, started": ([file("vox1_test_wav.zip.partial")], "dataprep.py --download --parts vox1_test"),
    "VoxCeleb2, started": ([file("vox2_dev_aac_partaa")], "dataprep.py --download --parts vox2"),
    "VoxCeleb1, started": (
        [file("vox1_test_wav.zip.partial"), file("vox1_dev_wav_partaa")],
        "dataprep.py --download --parts vox1_dev",
    ),
    "LibriSpeech, started": ([file("train-clean-5.tar.gz.partial")], "dataprep.py --librispeech train-clean-5"),
    "LibriSpeech, downloaded": ([wavs(TRAIN), file("dev-clean-2.tar.gz")], "dataprep.py --librispeech dev-clean-2"),
    "LibriSpeech, downloaded, other wavs": (
        [wavs(TEST), LIST, file("dev-clean-2.tar.gz")],
        "dataprep.py --librispeech dev-clean-2",
    ),
    "LibriSpeech, wavs missing": (
        [wavs(TEST), LIST, file("dev-clean-2.tar.gz"), extracted("dev-clean-2", "id00000 3\nid00009 1\n")],
        "dataprep.py --librispeech dev-clean-2",
    ),
    "LibriSpeech, complete, with a damaged earlier download": (
        [wavs(TEST), LIST, file("dev-clean-2.tar.gz"), file("dev-clean-2.tar.gz.bad"), extracted("dev-clean-2")],
        "feat_extract/feature_extraction.py",
    ),
    "noise, complete, with a damaged earlier download": (
        [wavs(TEST), LIST, file("musan.tar.gz"), file("musan.tar.gz.bad"), file("musan/a.wav")],
        "feat_extract/feature_extraction.py",
    ),
    "LibriSpeech, extracted": (
        [wavs(TRAIN), wavs(TEST), LIST, file("dev-clean-2.tar.gz"), extracted("dev-clean-2"),
         file("train-clean-5.tar.gz"), extracted("train-clean-5")],
        "feat_extract/feature_extraction.py",
    ),
    "LibriSpeech, features": (
        [empty_wavs(TRAIN, 28, 3), wavs(TEST), LIST, features(TRAIN, 28), features(TEST), file("dev-clean-2.tar.gz"),
         extracted("dev-clean-2")],
        "train.py --nb_class_train 28",
    ),
    "noise, started": ([wavs(TEST), file("musan.tar.gz.partial")], "dataprep.py --musan"),
    "impulse responses, downloaded": ([wavs(TEST), file("rirs_noises.zip")], "dataprep.py --rirs"),
    "lists without trees": ([LIST, file("veri_test2.txt", TRIALS)], "dataprep.py --download"),
    "test wavs": ([wavs(TEST)], "feat_extract/feature_extraction.py"),
    "test features": ([features(TEST)], f"EER_short.py {MODEL}"),
    "test wavs and features": ([wavs(TEST), features(TEST)], "dataprep.py --make_trials 18"),  # 9 targets, 27 others
    "many test wavs and features": (
        [empty_wavs(TEST, 2, 101), features(TEST, 2, 101)],
        "dataprep.py --make_trials 10000",
    ),
    "test wavs, features and list": ([wavs(TEST), features(TEST), LIST], f"EER_full.py {MODEL}"),
    "test features and list": ([features(TEST), LIST], f"EER_full.py {MODEL}"),
    "an invalid list": (
        [wavs(TEST), features(TEST), file(TRIALS_NAME, "nonsense\n")],
        "dataprep.py --make_trials 18",
    ),
    "one test speaker": ([wavs(TEST, 1), features(TEST, 1)], "dataprep.py --import_dir FOLDER --split test"),
    "features of other wavs": ([wavs(TEST, 3, 2), features(TEST, 2, 3)], "feat_extract/feature_extraction.py"),
    "training wavs": ([wavs(TRAIN)], "feat_extract/feature_extraction.py"),
    "training wavs and features": ([wavs(TRAIN), features(TRAIN)], "train.py --nb_class_train 3"),
    "training features": ([features(TRAIN)], "train.py --nb_class_train 3"),
    "training features of many": ([features(TRAIN, 101)], "train.py"),
    "too few training features": ([features(TRAIN, 3, 2)], "dataprep.py --import_dir FOLDER --split train"),
    "too few, but a test": ([features(TRAIN, 3, 2), features(TEST), LIST], f"EER_full.py {MODEL}"),
    "only VoxCeleb1": (
        [features(DEV), features(TEST), LIST],
        "train.py --data_type vox1 --nb_class_train 3",
    ),
    "both VoxCelebs": ([features(DEV), features(TEST), features(TRAIN, 4), LIST], "train.py --nb_class_train 4"),
    "imported": ([wavs(TRAIN), features(TRAIN), wavs(TEST)], "feat_extract/feature_extraction.py"),
    "imported, no list": (
        [wavs(TRAIN), features(TRAIN), wavs(TEST), features(TEST)],
        "dataprep.py --make_trials 18",
    ),
    "a wav without features": ([wavs(TEST), features(TEST), LIST, file(BROKEN)], "feat_extract/feature_extraction.py"),
    "a wav that cannot be used": (
        [
            wavs(TEST),
            features(TEST),
            LIST,
            file(BROKEN),
            file("feature_errors.csv", f"file,error\nX/{BROKEN},silent\n"),
        ],
        f"EER_full.py {MODEL}",
    ),
    "an m4a": ([wavs(TEST), features(TEST), LIST, file(BROKEN_M4A)], "dataprep.py --convert"),
    "an m4a that cannot be used": (
        [
            wavs(TEST),
            features(TEST),
            LIST,
            file(BROKEN_M4A),
            file("convert_errors.csv", f"file,reason\n{BROKEN_M4A},x\n"),
        ],
        f"EER_full.py {MODEL}",
    ),
}  # fmt: skip


def next_command(root: Path, *flags: object) -> list[str]:
    output = here("dataprep.py", "--save_path", root, "--check", *flags, cwd=root.parent).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("next: python "))
    assert ("without an account: --librispeech" in output) == ("--download" in line)
    return shlex.split(line.removeprefix("next: python "))


@pytest.mark.parametrize("state", STATES)
def test_the_next_command(tmp_path: Path, state: str) -> None:
    root = tmp_path / "my data"
    for write in STATES[state][0]:
        write(root)
    before = sorted(root.rglob("*"))
    script, *flags = STATES[state][1].split()
    assert next_command(root) == [script, "--save_path", str(root), *flags]
    assert sorted(root.rglob("*")) == before  # nothing is written


def test_a_private_set_keeps_its_flags(tmp_path: Path) -> None:
    root = tmp_path / "root"
    lists = private_set(tmp_path, root)
    assert next_command(root, *lists) == ["dataprep.py", "--save_path", str(root), "--extract", *map(str, lists)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "state",
    ["test features", "test wavs and features", "test wavs, features and list", "training wavs", "training features",
     "only VoxCeleb1", "a wav without features"],
)  # fmt: skip
def test_the_next_command_works(tmp_path: Path, state: str) -> None:
    root = tmp_path / "data"
    for write in STATES[state][0]:
        write(root)
    script, *flags = next_command(root)
    if script == "train.py":
        flags += ["--max_epoch", "0", "--backbone", "resnet18", "--model_path", str(tmp_path / "saved_model")]
    if script == "EER_short.py":
        flags += ["--test_length", "20"]
    done = here(script, *flags, cwd=PROJECT, check=None)
    assert done.returncode == (state == "a wav without features"), done.stderr
    assert next_command(root)[0] != script or script in ("train.py", "EER_full.py", "EER_short.py")

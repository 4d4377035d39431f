"""The pages: commands run or parse, flags and links exist, and Python runs."""

import importlib
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from conftest import PROJECT, run_script, voice, write_wavs
from small_network import small_network
from torch.distributed.run import get_args_parser as torchrun_parser

import dataset.trial_sampling
import recognize
from configure import TRIALS_NAME
from evaluation.calibration import Calibration, save_calibration
from model.checkpoint import load_checkpoint
from recognition import recognizer
from system.files import sha256

README = PROJECT / "README.md"
PAGES = [
    *sorted(PROJECT.glob("*.md")),
    *sorted(PROJECT.glob("docs/*.md")),
    PROJECT / "pretrained/README.md",
]
LANGUAGES = {"sh", "python", "text", "bibtex"}  # of code blocks; those of sh contain the commands
LAUNCHERS = ("python", "torchrun", "make", "pip")  # the first word of a command within a sentence
NOT_OURS = (["python3", "-m", "venv"], ["source", ".venv/bin/activate"], ["git", "clone"])
PARSED_ONLY = {"--download", "--extract", "--librispeech", "--musan", "reproduce.py"}  # they need a network or hours
SMALL = {  # appended: argparse uses the later of two equal flags
    "train.py": ["--nb_class_train", "3", "--max_epoch", "1"],
    "identification.py": ["--nb_class_test", "3", "--nb_episode", "4"],
    "--use_checkpoint": ["--max_epoch", "2"],
    "--as_norm": ["--as_norm", "3"],
    "--noise_snr": ["--noise_snr", "clean", "0"],
}
RECORDINGS = ("a.wav", "b.mp3", "anna1.flac", "anna2.flac", "boris.wav", "clara.wav", "clip1.mp3", "clip2.wav")


class Block(NamedTuple):
    """A fenced block of code."""

    line: int  # number of its first line in the page
    language: str
    text: str


class Command(NamedTuple):
    """A command of a page, split into words as in a shell."""

    line: int
    words: list[str]
    run: bool  # False for a command within a sentence, which is parsed only


def split(page: Path) -> tuple[list[Block], dict[int, str]]:
    """Return the fenced blocks, and the other lines by number."""
    blocks: list[Block] = []
    prose: dict[int, str] = {}
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            inside = not inside
            if inside:
                blocks.append(Block(number, line[3:], ""))
        elif inside:
            blocks[-1] = blocks[-1]._replace(text=blocks[-1].text + line + "\n")
        else:
            prose[number] = line
    return blocks, prose


def spans(prose: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Yield the code spans of a page and the numbers of their first lines; a span may continue on the next line."""
    text, numbers = "\n".join(prose.values()), list(prose)
    for match in re.finditer(r"`([^`]+)`", text):
        yield numbers[text.count("\n", 0, match.start())], match[1].replace("\n", " ")


def commands_of(page: Path) -> list[Command]:
    """Return the commands of a page in their order; commands within sentences come last."""
    blocks, prose = split(page)
    commands = []
    for block in blocks:
        for offset, line in enumerate(block.text.splitlines(), start=1):
            if block.language == "sh" and (words := shlex.split(line, comments=True)):
                commands.append(Command(block.line + offset, words, run=True))
    for number, span in spans(prose):
        if span.split()[0] in LAUNCHERS and " " in span:
            commands.append(Command(number, shlex.split(span), run=False))
    return commands


def carry_out(command: Command) -> None:
    """Run a command, or parse it with its parser; raise the error of a wrong one."""
    run = command.run and not PARSED_ONLY.intersection(command.words)
    match command.words:
        case [*words] if any(words[: len(known)] == known for known in NOT_OURS):
            pass
        case ["cp", source, target]:
            shutil.copy(source, target)
        case ["pip", "install", "-r", name]:
            assert (PROJECT / name).is_file()
        case ["make", *targets]:
            subprocess.run(["make", "--dry-run", *targets], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        case ["torchrun", *words]:
            launched = torchrun_parser().parse_args(words)
            script(launched.training_script).parse_args(launched.training_script_args)
        case ["ruff", *flags]:
            assert subprocess.run([sys.executable, "-m", "ruff", *flags, "--help"], capture_output=True).returncode == 0
        case ["python", "-m", "pytest", *flags]:
            # Status 5: parsed, and no tests to collect here.
            paths = [flag for flag in flags if flag.startswith("tests")]
            assert all((PROJECT / path.partition("::")[0]).exists() for path in paths)
            flags = ["-c", str(PROJECT / "pyproject.toml"), *(flag for flag in flags if flag not in paths)]
            assert subprocess.run([sys.executable, "-m", "pytest", *flags, "--collect-only"]).returncode == 5
        case ["python", "-m", module, *flags]:
            importlib.import_module(module).parse_args(flags)
        case ["python", name, *flags] if run:
            for kind in (name, *flags):
                flags = [*flags, *SMALL.get(kind, [])]
            assert not script(name).main(flags), "its exit status"
        case ["python", name, *flags]:
            script(name).parse_args(flags)
        case _:
            raise ValueError("unknown command: neither run nor parsed")


def script(name: str) -> ModuleType:
    """Return the module of a script."""
    assert (PROJECT / name).is_file()
    return importlib.import_module(name.removesuffix(".py").replace("/", "."))


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Let the commands of the pages run with a small network and fewer short trials."""
    with small_network("resnet34") as patch:
        patch.setattr(dataset.trial_sampling, "SHORT_TRIALS_PER_SPEAKER", 25)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """Return a reader's folder: recordings, data with features, and the published model, also as the bundled one."""
    home = tmp_path_factory.mktemp("world")
    for tree, speakers, n_utterances in (("vox2_dev", range(4), 3), ("vox1_test", range(30, 34), 7)):
        write_wavs(home / "data", tree, speakers, n_utterances, seconds=1.2)
    names = [f"id{s:05d}/video{u % 2}/{u:05d}.wav" for s in range(30, 34) for u in range(7)]
    trials = [f"{int(a[:7] == b[:7])} {a} {b}\n" for a in names[::2] for b in names[1::2]]
    (home / "data" / TRIALS_NAME).write_text("".join(trials))
    (home / "clips.txt").write_text("clip1.mp3\nrecordings\n")
    write_lists(home, [trial.split() for trial in trials])
    disturbances = [f"data/{folder}/a.wav" for folder in ("musan/noise", "musan/music", "RIRS_NOISES/simulated_rirs")]
    own = [f"recordings/{split}/{speaker}/1.wav" for split in ("train", "test") for speaker in "123"]
    for i, name in enumerate([*RECORDINGS, *own, *disturbances]):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(home / name, voice(i, 1.5, i), 16000)
    script("feat_extract/feature_extraction.py").main(["--save_path", str(home / "data"), "--num_workers", "1"])
    runs = ["--save_path", str(home / "data"), "--model_path", str(home / "runs")]
    script("train.py").main([*runs, "--nb_class_train", "3", "--max_epoch", "0"])
    published = home / "saved_model" / "baseline_000" / "checkpoint_100.pth"
    published.parent.mkdir(parents=True)
    state = load_checkpoint(home / "runs" / "baseline_000" / "checkpoint_000.pth").state_dict
    torch.save({"epoch": 101, "state_dict": state, "optimizer": {}}, published)
    shutil.rmtree(home / "runs")
    save_calibration(
        published, sha256(published), Calibration(0.0, (1.0, 0.0, 0.0, 0.0, 0.0), (1.0, 2.0), (0.5, 2.0), 100, 100)
    )
    for name in ("librispeech", "own"):
        (home / name).symlink_to("data")
    shutil.copytree(published.parent, home / "pretrained")
    (home / "pretrained" / published.name).rename(home / "pretrained/open_speech.pth")
    return home


def write_lists(home: Path, trials: list[list[str]]) -> None:
    """Write the trials (label, enrolment, test) in the other formats that docs/evaluation.md names."""
    speakers = sorted({enrol.split("/")[0] for _, enrol, _ in trials})
    rows = {
        "labels_last.txt": [
            f"{enrol} {test} {'nontarget target'.split()[int(label)]}" for label, enrol, test in trials
        ],
        "unlabelled.txt": [f"{enrol} {test}" for _, enrol, test in trials],
        "model_trials.txt": [f"{label} {enrol.split('/')[0]} {test}" for label, enrol, test in trials],
        "models.txt": [f"{s} {s}/video0/00000.wav {s}/video0/00002.wav" for s in speakers],
    }
    for name, lines in rows.items():
        (home / name).write_text("\n".join(dict.fromkeys(lines)) + "\n")


@pytest.fixture
def home(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder, a copy of `world`; the published model is also used as the bundled one."""
    shutil.copytree(world, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for module in (recognize, recognizer):
        monkeypatch.setattr(module, "BUNDLED_MODEL", tmp_path / "saved_model" / "baseline_000" / "checkpoint_100.pth")
    monkeypatch.delenv("METASR_SAVE_PATH", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():  # changed by train.py
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs_or_parses(page: Path, home: Path) -> None:
    for command in commands_of(page):
        try:
            carry_out(command)
        except (Exception, SystemExit) as error:
            if not (isinstance(error, SystemExit) and not error.code):  # --help exits with 0
                pytest.fail(f"{page.name}, line {command.line}: {shlex.join(command.words)}: {error!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs_and_blocks_have_a_language(page: Path, home: Path) -> None:
    blocks, prose = split(page)
    assert {block.language for block in blocks} <= LANGUAGES
    assert not [number for number, line in prose.items() if line.startswith("    ")], "use a fence, with a language"
    for block in blocks:
        if block.language == "python" and "onnxruntime" not in block.text:  # it has a separate test
            (home / "block.py").write_text(block.text.replace("/path/to/meta-sr", str(PROJECT)))
            runpy.run_path(str(home / "block.py"))


def test_the_evaluation_example_prints_the_eers_of_the_scripts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (block.text for block in split(PROJECT / "docs/evaluation.md")[0] if block.language == "python")
    (home / "example.py").write_text(example)
    runpy.run_path(str(home / "example.py"))
    printed, expected = capsys.readouterr().out, ""
    short = ["--test_length", "100", "--trials", f"data/{TRIALS_NAME}"]
    for name, length, flags in (("EER_full.py", "full", []), ("EER_short.py", "100", short)):
        script(name).main([*flags, "--json"])
        expected += f"test length {length}: EER {json.loads(capsys.readouterr().out)['eer']:.2f} %\n"
    assert printed == expected


@pytest.mark.slow
def test_the_onnx_example_gives_the_embeddings_of_recognize(tmp_path: Path) -> None:
    """In separate processes; the example runs without PyTorch."""
    pytest.importorskip("onnxruntime")
    blocks, _ = split(PROJECT / "docs/recognition.md")
    (example,) = (block.text for block in blocks if "onnxruntime" in block.text and block.language == "python")
    assert 'for file in ("a.wav", "b.mp3")' in example
    pause = np.zeros(12_000, np.int16)
    soundfile.write(tmp_path / "a.wav", np.concatenate([pause, voice(1, 1.1, 0), pause, voice(1, 0.7, 1)]), 16000)
    soundfile.write(tmp_path / "b.mp3", np.stack([voice(2, 2.5, 0)] * 2, axis=1), 44100)
    for flags in (["export", "model.onnx"], ["embed", "a.wav", "b.mp3", "-o", "expected.npz"]):
        run_script("recognize.py", *flags, cwd=tmp_path)
    (tmp_path / "example.py").write_text(
        f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n{example}\n"
        "assert 'torch' not in sys.modules\nnp.save('found.npy', embeddings)\n"
    )
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    with np.load(tmp_path / "expected.npz") as expected:
        np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected["embeddings"], atol=1e-5)
        a, b = expected["embeddings"]
    assert done.stdout == f"cosine score {a @ b:.3f}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_in_the_text_exists(page: Path) -> None:
    scripts = [path for path in [*PROJECT.glob("*.py"), *PROJECT.glob("[!.]*/*.py")] if path.parent.name != "tests"]
    known = set(re.findall(r'"(--\w+)"', "".join(path.read_text(encoding="utf-8") for path in scripts)))
    known |= {"--help", "--standalone", "--nproc_per_node"}  # the last two are torchrun's
    _, prose = split(page)
    wrong = {flag for _, span in spans(prose) for flag in re.findall(r"(?<!\S)--\w+", span)} - known
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_target(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def links(page: Path) -> list[str]:
    """Return the relative targets of a page's links and pictures."""
    _, prose = split(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose.values()))
    return [target for target in targets if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub derives from the headings of a page."""
    _, prose = split(page)
    headings = [line.lstrip("#").strip() for line in prose.values() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_leads_to_every_page() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            todo += [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
    assert not {page.resolve() for page in PAGES} - reached


def test_every_symbol_of_the_method_page_exists() -> None:
    table, _, _ = (PROJECT / "docs/method.md").read_text(encoding="utf-8").partition("## Differences")
    symbols = []
    for cell in re.findall(r"\| ([^|]*\.py[^|]*) \|$", table, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            if name.endswith(".py"):
                module = script(name)
            else:
                assert hasattr(module, name), f"{name} of {module.__name__}"
                symbols.append(name)
    assert len(symbols) > 35

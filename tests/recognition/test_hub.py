"""hubconf.py: the recogniser and its encoder from another project, by torch.hub and by sys.path."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import PROJECT, voice
from torch.nn import functional as F

import hubconf
from feat_extract.fbank import log_mel
from feat_extract.silence import trim_samples
from recognition.recognizer import Recognizer

IMPORT_NAMES = {"scikit-learn": "sklearn"}  # of packages that are imported by another name
OTHER_PROJECT = """
import json, os, sys
from pathlib import Path

import numpy as np


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split():
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())
import torch

repository = sys.argv[1]
recognizer = torch.hub.load(repository, "recognizer", source="local", device="cpu")
encoder = torch.hub.load(repository, "encoder", source="local")
os.chdir("/")
folder = Path(__file__).parent
arrays = np.load(folder / "arrays.npz")
files = [folder / "a.wav", folder / "b.mp3"]
embeddings = [recognizer.embed(arrays["waveform"], 22050), *recognizer.embed_files(files)]
embeddings += [*encoder(torch.from_numpy(arrays["features"])).numpy()]
np.save(folder / "embeddings.npy", embeddings)
from recognition.utterance import read_utterance  # as in docs/recognition.md

speech = read_utterance(folder / "a.wav").speech
import train  # of the other project

files = {name: Path(getattr(module, "__file__", None) or "/") for name, module in sys.modules.items()}
installed = Path(sys.prefix)  # may be in the folder of the repository
ours = {name for name, file in files.items() if Path(sys.argv[3]) in file.parents and installed not in file.parents}
loaded = {name.partition(".")[0] for name in ours}
print(json.dumps([train.OWNER, speech, sorted(loaded), sys.path]))
"""


def names_in_requirements() -> set[str]:
    lines = (PROJECT / "requirements.txt").read_text()
    return {IMPORT_NAMES.get(name, name) for name in re.findall(r"^([\w-]+)==", lines, re.MULTILINE)}


def refused(modules: list[str], folder: Path) -> list[str]:
    """Return the modules that another project cannot have together with the recogniser."""
    for name in modules:
        (folder / "second" / name).mkdir(parents=True)
        (folder / "second" / name / f"{name}.py").touch()
    code = f"""
import sys
sys.path.append({str(PROJECT)!r})
import hubconf
for name in {modules}:
    sys.path[0] = "second/" + name
    try:
        hubconf.recognizer()
    except ImportError:
        print(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_another_project_loads_the_recogniser_and_the_encoder(tmp_path: Path) -> None:
    """In a separate process and folder, with only the packages of hubconf.dependencies."""
    (tmp_path / "other.py").write_text(OTHER_PROJECT)
    (tmp_path / "train.py").write_text("OWNER = 'the other project'")
    (tmp_path / "dataset" / "train").mkdir(parents=True)  # a folder of data, not a module
    samples = voice(1, 1.5, 0)
    waveform, features = voice(2, 1.2, 0) / 32768, np.random.default_rng(0).normal(3, 9, (2, 1, 40, 120))
    features = features.astype(np.float32)
    np.savez(tmp_path / "arrays.npz", waveform=waveform, features=features)
    files = [tmp_path / "a.wav", tmp_path / "b.mp3"]
    soundfile.write(files[0], samples, 16000)
    soundfile.write(files[1], voice(3, 2, 0), 44100)
    absent = " ".join(names_in_requirements() - set(hubconf.dependencies))
    command = [sys.executable, "other.py", os.path.relpath(PROJECT, tmp_path), absent, str(PROJECT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    owner, speech, modules, path = json.loads(done.stdout)
    assert owner == "the other project" and 0 < speech <= 1.5
    assert refused([*modules, "training"], tmp_path) == modules  # for a second project with all of these folders
    assert path[0] == str(tmp_path) and str(PROJECT) not in map(os.path.abspath, path)
    recognizer, found = Recognizer(device="cpu"), np.load(tmp_path / "embeddings.npy")
    expected = [recognizer.embed(waveform, 22050), *recognizer.embed_files(files)]
    np.testing.assert_allclose(found[:3], expected, atol=1e-6)
    np.testing.assert_allclose(found[3:], recognizer.encoder(torch.from_numpy(features)).numpy(), atol=1e-4)


def test_the_encoder_takes_log_mel_features_and_its_embeddings_are_not_normalised() -> None:
    samples = voice(4, 1.3, 0)
    features = torch.from_numpy(log_mel(trim_samples(samples)).T[None, None])
    embedding = hubconf.encoder()(features)
    assert embedding.shape == (1, 256) and abs(embedding.norm().item() - 1) > 0.1 and not embedding.requires_grad
    expected = Recognizer(device="cpu").embed(samples, 16000)
    np.testing.assert_allclose(F.normalize(embedding)[0].numpy(), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(hubconf.encoder()(features).numpy(), embedding.numpy())


def test_an_untrained_encoder_can_be_trained() -> None:
    untrained = hubconf.encoder(pretrained=False)
    assert untrained.training and all(weight.requires_grad for weight in untrained.parameters())
    with pytest.raises(ValueError, match="a checkpoint is given and pretrained is False"):
        hubconf.encoder(pretrained=False, checkpoint="model.pth")


def test_torch_hub_lists_the_two_entry_points() -> None:
    named = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    assert named == {"encoder", "recognizer"}


@pytest.mark.parametrize(
    "entry, file, before",
    [
        ("recognizer", "model.py", ""),
        ("recognizer", "model.py", "import model; "),
        ("encoder", "loss/__init__.py", ""),
        ("encoder", "dataset/loader.py", ""),  # in a folder without __init__.py
        ("recognizer", "dataset/loader.py", "import dataset.loader; "),
        ("encoder", "system.py", "import types; sys.modules['system'] = types.ModuleType('system'); "),
    ],
)
def test_modules_of_the_same_names_are_an_error_that_names_the_file(
    tmp_path: Path, entry: str, file: str, before: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    code = f"import sys; {before}sys.path.append({str(PROJECT)!r}); import hubconf; hubconf.{entry}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("ImportError: ")]
    name = Path(file).parts[0].removesuffix(".py")
    assert f"two modules called '{name}'" in message and "--json" in message and "export model.onnx" in message
    assert str(tmp_path / file) in message or (before and f"<module '{name}'>" in message)

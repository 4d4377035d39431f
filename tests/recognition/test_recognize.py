"""recognize.py as a user runs it: compare, enroll, list, remove, identify, embed, export; and the Recognizer."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile
import torch
from conftest import HERE, PROJECT, PYTHON, here, present, run_script, voice, write_wavs
from networks import CALIBRATION, ratio, write_checkpoint

import recognize
from configure import TREES
from evaluation.calibration import Calibration, save_calibration
from evaluation.metrics import verification_metrics
from model.checkpoint import load_checkpoint, save_checkpoint
from recognition import recognizer as recognizer_module
from recognition.recognizer import BUNDLED_MODEL
from recognition.speakers import load_speakers
from recognition.utterance import read_utterance, utterance_of
from recognize import Recognizer
from system.console import UsageError, UserError
from system.files import sha256

SPEAKERS = range(30, 33)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained checkpoints, one of them calibrated, speakers' wavs and features, and a trial list."""
    home = tmp_path_factory.mktemp("recognize")
    write_checkpoint(home / "model.pth", 0)
    write_checkpoint(home / "other.pth", 1)
    spread = [voice(speaker, 0.9, take) for speaker in SPEAKERS for take in range(3)]
    write_checkpoint(home / "calibrated.pth", 2, spread)
    save_calibration(home / "calibrated.pth", sha256(home / "calibrated.pth"), CALIBRATION)
    write_wavs(home / "data", "vox1_test", SPEAKERS, 3, seconds=0.9)
    run_script("feat_extract/feature_extraction.py", "--num_workers", 1, cwd=home)
    names = [wav.relative_to(wavs(home)) for wav in sorted(wavs(home).rglob("*.wav"))]
    lines = [f"{int(a.parts[0] == b.parts[0])} {a} {b}\n" for a in names for b in names if a < b]
    (home / "trials.txt").write_text("".join(lines))
    return home


@pytest.fixture(scope="module")
def evaluated(home: Path) -> dict:
    """The result of EER_full.py for model.pth."""
    flags = ["--checkpoint", "model.pth", "--trials", "trials.txt", "--save_scores", "scores.csv", "--json"]
    return json.loads(run_script("EER_full.py", *flags, cwd=home).stdout)


def wavs(home: Path) -> Path:
    return home / "data" / TREES["vox1_test"].wav


def wav(home: Path, speaker: int, take: int) -> Path:
    return wavs(home) / f"id{speaker:05d}" / f"video{take % 2}" / f"{take:05d}.wav"


def run(
    home: Path, command: str, *arguments: object, check: int = 0, launcher: tuple[str, ...] = HERE
) -> subprocess.CompletedProcess:
    network = [] if command in ("list", "remove") else ["--checkpoint", "model.pth"]
    return run_script("recognize.py", command, *network, *arguments, cwd=home, check=check, launcher=launcher)


def call(home: Path, command: str, *arguments: object) -> None:
    """Run a subcommand in this process, which saves importing PyTorch again."""
    network = [] if command in ("list", "remove") else ["--checkpoint", home / "model.pth"]
    recognize.main([command, *map(str, [*network, *arguments])])


def test_scores_and_error_rate_are_those_of_the_evaluation(home: Path, evaluated: dict) -> None:
    trials = pandas.read_csv(home / "scores.csv")
    recognizer = Recognizer(home / "model.pth")
    names = sorted({*trials["enrol"], *trials["test"]})
    utterances = [read_utterance(wavs(home) / name, trim_silence=False) for name in names]
    embeddings = dict(zip(names, recognizer.embed_utterances(utterances), strict=True))
    enrol, test = (np.stack([embeddings[name] for name in trials[side]]) for side in ("enrol", "test"))
    scores = recognizer.score(enrol, test)
    np.testing.assert_allclose(scores, trials["score"], atol=1e-6)
    assert 100 * verification_metrics(scores, trials["label"]).eer == pytest.approx(evaluated["eer"], abs=1e-6)


@pytest.mark.slow
def test_evaluation_without_pauses_agrees_with_recognition(home: Path, tmp_path: Path) -> None:
    """Scores, seconds of speech and LLRs of recordings with silence around the speech."""
    rng, folder = np.random.default_rng(0), tmp_path / TREES["vox1_test"].wav
    for path in sorted(wavs(home).rglob("*.wav")):
        speech, _ = soundfile.read(path, dtype="int16")
        before, after = (rng.normal(0, 3, rng.integers(4000, 30_000)).round() for _ in range(2))
        samples = np.concatenate([before, speech, after]).astype(np.int16)
        (folder / path.relative_to(wavs(home))).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path.relative_to(wavs(home)), samples, 16000, subtype="PCM_16")
    here("feat_extract/feature_extraction.py", "--save_path", tmp_path, "--num_workers", 1, cwd=home)
    scored = {}
    for trims in (False, True):
        flags = ["--trials", "trials.txt", "--save_path", tmp_path, "--trim_silence", trims]
        flags += ["--checkpoint", BUNDLED_MODEL, "--save_scores", tmp_path / "scores.csv"]
        here("EER_full.py", *flags, cwd=home)
        scored[trims] = pandas.read_csv(tmp_path / "scores.csv")
    recognizer, trials = Recognizer(), scored[True]
    names = sorted({*trials["enrol"], *trials["test"]})
    utterances = dict(zip(names, [read_utterance(folder / name) for name in names], strict=True))
    embeddings = dict(zip(names, recognizer.embed_utterances([*utterances.values()]), strict=True))
    enrol, test = (np.stack([embeddings[name] for name in trials[side]]) for side in ("enrol", "test"))
    speech = [np.array([utterances[name].speech for name in trials[side]]) for side in ("enrol", "test")]
    for side, expected in zip(("enrol_seconds", "test_seconds"), speech, strict=True):
        np.testing.assert_allclose(trials[side], expected, atol=0.04)  # of 0.9 s and more
        assert (scored[False][side] > expected + 0.4).all()
    scores, llr = recognizer.score(enrol, test), recognizer.llr(enrol, test, *speech)
    for column, expected in (("score", scores), ("llr", llr)):
        trimmed, untrimmed = (np.abs(table[column] - expected).mean() for table in (trials, scored[False]))
        assert trimmed < 0.5 * untrimmed, f"{column}: {trimmed} and, with pauses, {untrimmed}"


def test_compare(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrated = "--checkpoint", home / "calibrated.pth"
    a, b = wav(home, 30, 0), wav(home, 31, 1)
    (one, other), speech = (
        Recognizer(home / "calibrated.pth").embed_files([a, b]),
        [read_utterance(f).speech for f in (a, b)],
    )
    assert speech[0] < speech[1]
    result = json.loads(run(home, "compare", *calibrated, a, b, "--json", launcher=PYTHON).stdout)
    assert list(result) == ["same_speaker", "score", "llr", "probability", "prior", "seconds", "voice"]
    assert result["score"] == pytest.approx(one @ other, abs=1e-6) and result["seconds"] == pytest.approx(speech)
    assert result["llr"] == pytest.approx(
        ratio(result["score"], speech[1], speech[0]), abs=1e-9
    )  # the longer recording is the enrolment
    odds = np.exp(result["llr"])
    assert result["prior"] == 0.5 and result["probability"] == pytest.approx(odds / (1 + odds))
    assert result["same_speaker"] is bool(odds >= 1)
    for prior in (0.001, 0.999):
        call(home, "compare", *calibrated, b, a, "--prior", prior, "--json")
        again = json.loads(capsys.readouterr().out)
        assert again["llr"] == pytest.approx(result["llr"], abs=1e-5)
        assert again["probability"] == pytest.approx(odds * prior / (1 - prior + odds * prior), rel=1e-3)
        assert again["same_speaker"] is (prior == 0.999)
    call(home, "compare", *calibrated, a, b)
    figures = (
        f"score {result['score']:.4f}, llr {result['llr']:.4f}, probability {result['probability']:.4f}, prior 0.5"
    )
    text = capsys.readouterr().out
    assert figures in text and f"; {speech[0]:.2f} s and {speech[1]:.2f} s of speech\n" in text
    assert text.startswith("one speaker: " if odds >= 1 else "two speakers: ")


def test_a_threshold_decides_without_a_calibration(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = wav(home, 30, 0), wav(home, 31, 1)
    done = run(home, "compare", "--checkpoint", "other.pth", a, b, check=1)
    assert "no calibration; fit one with EER_short.py" in done.stderr and "--calibrate True" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for threshold, same in ((-1, True), (1, False)):
        call(home, "compare", "--checkpoint", home / "other.pth", a, b, "--threshold", threshold, "--json")
        result = json.loads(capsys.readouterr().out)
        assert list(result) == ["same_speaker", "score", "threshold", "seconds", "voice"]
        assert result["same_speaker"] is same and result["threshold"] == threshold
    call(
        home, "compare", "--checkpoint", home / "calibrated.pth", a, b, "--threshold", 1
    )  # has precedence over the calibration
    assert capsys.readouterr().out.startswith("two speakers: score ")
    for flags, message in (
        (["--prior", 1], "not below 1"),
        (["--prior", 0.5, "--threshold", 0], "with --threshold"),
        (["--threshold", "nan"], "'nan' is not a number from -1 to 1"),
        (["--threshold", "1.01"], "'1.01' is not a number from -1 to 1"),
        (["--threshold", "half"], "'half' is not a number from -1 to 1"),
    ):
        assert message in run(home, "compare", a, b, *flags, check=2).stderr


@pytest.mark.parametrize("kind", [str, Path, Path.read_bytes, lambda path: io.BytesIO(path.read_bytes())])
def test_one_file_instead_of_several_is_an_error(home: Path, kind: Callable[[Path], Any]) -> None:
    with pytest.raises(TypeError, match=r"takes several files, not \w+; pass one file as \[file\]"):
        Recognizer(home / "other.pth").embed_files(kind(wav(home, 30, 0)))


def test_a_calibration_belongs_to_its_checkpoint(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Recognizer(home / "calibrated.pth").calibration == CALIBRATION
    kept = (home / "calibrated.calibration.json").read_text()
    (home / "other.calibration.json").write_text(kept)
    assert Recognizer(home / "other.pth").calibration is None and "another checkpoint" in capsys.readouterr().err
    (home / "other.calibration.json").unlink()


def test_llr_of_a_recognizer(home: Path) -> None:
    recognizer = Recognizer(home / "calibrated.pth")
    clips = recognizer.embed_files([wav(home, speaker, 0) for speaker in SPEAKERS])
    llr = recognizer.llr(clips[:, None], clips, np.array([[0.6], [1.0], [3.0]]), np.array([1.2, 0.2, 2.0]))
    seconds = [
        [(1.2, 0.6), (0.6, 0.2), (2.0, 0.6)],
        [(1.2, 1.0), (1.0, 0.2), (2.0, 1.0)],
        [(3.0, 1.2), (3.0, 0.2), (3.0, 2.0)],
    ]
    scores = recognizer.score(clips[:, None], clips)
    expected = [[ratio(scores[i, j], *seconds[i][j]) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(llr, expected, atol=1e-5)
    alone = recognizer.embed_files([wav(home, 32, 0)])[0]  # neither the batch nor the order matters
    assert recognizer.llr(alone, clips[0], 1.0, 1.2) == pytest.approx(
        recognizer.llr(clips[0], clips[2], 1.2, 1.0), abs=1e-5
    )
    with pytest.raises(UserError, match="no calibration"):
        Recognizer(home / "other.pth").llr(alone, alone, 1, 1)


def test_enroll_list_identify_remove(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "voices"
    done = run(home, "enroll", "--voices", folder, "Ana María", wav(home, 30, 0))
    assert done.stdout == "Ana María: 1 recording, 0.90 s of speech; 1 added\n"
    call(home, "enroll", "--voices", folder, "Ben", wav(home, 31, 0))
    call(home, "enroll", "--voices", folder, "Ben", wav(home, 31, 0), wav(home, 31, 1))
    again = capsys.readouterr()
    assert "already enrolled for Ben" in again.err and "Ben: 2 recordings" in again.out and "; 1 added" in again.out
    listed = run(home, "list", "--voices", folder).stdout.splitlines()
    assert [line.split(": ")[0] for line in listed] == ["Ana María", "Ben"]
    clips = [wav(home, 30, 0), wav(home, 31, 0), wav(home, 32, 0)]
    done = run(home, "identify", "--voices", folder, *clips, "--threshold", 0, "--json")
    result = json.loads(done.stdout)
    assert [entry["speaker"] for entry in result["files"][:2]] == ["Ana María", "Ben"]
    assert result["files"][0]["ranking"][0]["score"] == pytest.approx(1, abs=1e-6)
    assert [entry["file"] for entry in result["files"]] == [str(clip) for clip in clips]
    call(home, "identify", "--voices", folder, clips[2], "--threshold", 1)
    text = capsys.readouterr().out
    assert f"{clips[2]} (0.90 s of speech): unknown [" in text and "Ben 0." in text
    assert run(home, "remove", "--voices", folder, "Ben").stdout == "Ben: removed\n"
    assert [path.name for path in folder.glob("[!.]*")] == ["Ana María.npz"]


@pytest.mark.slow
def test_two_simultaneous_enrolments_of_one_name_are_both_kept(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, PROJECT / "recognize.py", "enroll", "--checkpoint", "model.pth", "--voices", tmp_path]
    clips = [wav(home, 30, take) for take in range(2)]
    both = [subprocess.Popen([*map(str, [*command, "Ana", clip])], cwd=home) for clip in clips]
    assert [process.wait() for process in both] == [0, 0]
    (enrolled,) = recognize.speakers.load_speakers(tmp_path)
    assert sorted(enrolled.files) == sorted(map(str, clips)) and enrolled.embeddings.shape == (2, 256)


@pytest.mark.slow
def test_a_change_waits_until_another_has_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = "import sys, time; from pathlib import Path; from system.files import locked\n"
    holder += "with locked(Path(sys.argv[1])):\n"
    holder += "    print(flush=True); time.sleep(float(sys.argv[2]))"
    for held, patience in ((0.5, 60), (60, 0.2)):
        command = [sys.executable, "-c", holder, str(tmp_path / ".voices.lock"), str(held)]
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
            present(process.stdout).readline()
            monkeypatch.setattr(recognize.speakers, "PATIENCE", patience)
            outcome = nullcontext() if held < patience else pytest.raises(UserError, match=f"process {process.pid} on")
            with outcome, recognize.speakers.changing(tmp_path):
                assert held < patience
            process.kill()


@pytest.mark.slow
def test_identify_by_probabilities(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrated = "--checkpoint", home / "calibrated.pth"
    folder, names = ["--voices", tmp_path], ("Ana", "Ben", "Cleo")
    for name, files in zip(names, ([0, 1], [0], [0]), strict=True):
        call(home, "enroll", *calibrated, *folder, name, *(wav(home, 30 + names.index(name), take) for take in files))
    clip = wav(home, 30, 2)
    capsys.readouterr()
    seen = {}
    for prior in (0.5, 0.9, 0.0001):
        call(home, "identify", *calibrated, *folder, clip, wav(home, 31, 1), "--prior", prior, "--json")
        result = json.loads(capsys.readouterr().out)
        assert result["prior"] == prior and len(result["files"]) == 2
        answer = seen[prior] = result["files"][0]
        weights = {entry["speaker"]: prior / 3 * np.exp(entry["llr"]) for entry in answer["ranking"]} | {
            None: 1 - prior
        }
        total = sum(weights.values())
        assert answer["unknown"] == pytest.approx(weights[None] / total)
        for entry in answer["ranking"]:
            assert entry["probability"] == pytest.approx(weights[entry["speaker"]] / total)
        assert answer["speaker"] == max(weights, key=weights.__getitem__)
        ranks = [entry["probability"] for entry in answer["ranking"]]
        assert ranks == sorted(ranks, reverse=True) and {entry["speaker"] for entry in answer["ranking"]} == set(names)
    assert seen[0.0001]["speaker"] is None and seen[0.9]["speaker"] is not None
    speech = sum(read_utterance(wav(home, 30, take)).speech for take in (0, 1))
    (ana,) = (entry for entry in seen[0.5]["ranking"] if entry["speaker"] == "Ana")  # by the speech of both recordings
    assert ana["llr"] == pytest.approx(ratio(ana["score"], speech, seen[0.5]["seconds"]), abs=1e-9)
    call(home, "identify", *calibrated, *folder, clip, "--prior", "0.0001")
    line = capsys.readouterr().out
    assert line.startswith(f"{clip} ({seen[0.5]['seconds']:.2f} s of speech): unknown [unknown ")
    assert all(name in line for name in names)


def calibrated_copy(home: Path, folder: Path, calibration: Calibration) -> tuple[object, ...]:
    """Return the flags of a checkpoint with this calibration and of enrolled speakers, both in a folder."""
    checkpoint = Path(shutil.copy(home / "calibrated.pth", folder))
    save_calibration(checkpoint, sha256(checkpoint), calibration)
    return "--checkpoint", checkpoint, "--voices", folder / "voices"


@pytest.mark.slow
def test_equal_probabilities_are_ranked_by_the_score(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The calibration gives every score the maximum LLR."""
    at_bound = Calibration(100.0, (1.0, 0.0, 0.0, 0.0, 0.0), (1.0, 2.0), (1.0, 2.0), 99, 99)
    flags = calibrated_copy(home, tmp_path, at_bound)
    for name, speaker in (("A", 30), ("B", 31), ("C", 32)):
        call(home, "enroll", *flags, name, wav(home, speaker, 0))
    capsys.readouterr()
    call(home, "identify", *flags, wav(home, 31, 1), "--json")
    (answer,) = json.loads(capsys.readouterr().out)["files"]
    assert {entry["llr"] for entry in answer["ranking"]} == {np.log(100)} and answer["speaker"] == "B"
    ranks = [entry["score"] for entry in answer["ranking"]]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == 3


def test_speakers_are_ranked_by_probability_not_by_score(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this calibration, the duration of the enrolment has more weight than the score."""
    by_speech = Calibration(0.0, (1.0, 9.0, 0.0, 0.0, 0.0), (0.5, 9.0), (0.5, 9.0), 9000, 9000)
    flags = calibrated_copy(home, tmp_path, by_speech)
    call(home, "enroll", *flags, "little", wav(home, 30, 0))
    call(home, "enroll", *flags, "much", wav(home, 31, 0), wav(home, 31, 1), wav(home, 31, 2))
    capsys.readouterr()
    call(home, "identify", *flags, wav(home, 30, 0), "--json")
    (answer,) = json.loads(capsys.readouterr().out)["files"]
    much, little = answer["ranking"]
    assert (much["speaker"], little["speaker"], answer["speaker"]) == ("much", "little", "much")
    assert much["score"] < little["score"] == pytest.approx(1) and much["probability"] > little["probability"]


def test_a_prototype_is_the_mean_of_unit_length_embeddings(home: Path, tmp_path: Path) -> None:
    files = [str(wav(home, 30, take)) for take in (0, 1)]
    recognize.main(["enroll", "--checkpoint", str(home / "model.pth"), "--voices", str(tmp_path), "A", *files])
    (voice_,) = recognize.speakers.load_speakers(tmp_path)
    embeddings = Recognizer(home / "model.pth").embed_files(files)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(voice_.prototype, embeddings.mean(axis=0), atol=1e-6)
    assert voice_.files == files
    assert [recording.seconds for recording in voice_.recordings] == [read_utterance(file).speech for file in files]


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_embed(home: Path, suffix: str) -> None:
    files = [wav(home, 30, 0), wav(home, 30, 2)]
    if suffix == ".npz":
        done = run(home, "embed", *files, "-o", "vectors.NPZ")
        assert done.stdout == "vectors.NPZ: 2 embeddings of 256 dimensions\n"
        with np.load(home / "vectors.NPZ", allow_pickle=False) as content:
            names, embeddings = content["files"], content["embeddings"]
    else:
        call(home, "embed", *files, "-o", home / "vectors.csv")
        table = pandas.read_csv(home / "vectors.csv")
        names, embeddings = table["file"], table.drop(columns="file").to_numpy()
    assert list(names) == [str(file) for file in files]
    np.testing.assert_allclose(embeddings, Recognizer(home / "model.pth").embed_files(files), atol=1e-6)


def test_any_rate_format_and_standard_input(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import av

    recognizer, samples = Recognizer(home / "model.pth"), voice(40, 1.5, 0)
    soundfile.write(tmp_path / "plain.wav", samples, 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "lossless.flac", samples, 16000, subtype="PCM_16")
    high = np.interp(np.arange(2 * len(samples)) / 2, np.arange(len(samples)), samples) / 32768
    soundfile.write(tmp_path / "stereo.ogg", np.stack([high, high], axis=1), 32000)
    with av.open(str(tmp_path / "phone.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    names = ["plain.wav", "lossless.flac", "stereo.ogg", "phone.m4a"]
    plain, *others = recognizer.embed_files([tmp_path / name for name in names])
    np.testing.assert_allclose(others[0], plain, atol=1e-6)
    assert recognizer.score(plain, np.stack(others)).min() > 0.9
    for waveform in (samples, samples / 32768, np.stack([samples, samples], axis=1)):
        np.testing.assert_allclose(recognizer.embed(waveform, 16000), plain, atol=1e-4)
    for name in ("plain.wav", "phone.m4a"):
        piped = io.BytesIO((tmp_path / name).read_bytes())
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=piped))
        call(home, "compare", "-", tmp_path / "plain.wav", "--threshold", "0.5")
        assert capsys.readouterr().out.startswith("one speaker: score ")


def test_a_long_recording_has_the_mean_embedding_of_equal_pieces(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, utterance = Recognizer(home / "model.pth"), utterance_of(voice(41, 2.0, 0), 16000)
    frames = utterance.features
    assert len(frames) == 199
    pieces = [utterance._replace(features=frames[a:b]) for a, b in ((0, 66), (66, 132), (132, 199))]
    (full,), expected = recognizer.embed_utterances([utterance]), recognizer.embed_utterances(pieces).mean(axis=0)
    monkeypatch.setattr(recognizer_module, "PIECE_FRAMES", 70)  # 5 minutes otherwise
    (found,) = recognizer.embed_utterances([utterance])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)
    assert np.abs(found - full).max() > 1e-3


def test_speech_is_measured_without_pauses(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(16000, np.int16), voice(42, 0.3, 0), np.zeros(8000, np.int16)])
    soundfile.write(tmp_path / "pause.wav", samples, 16000, subtype="PCM_16")
    utterance = read_utterance(tmp_path / "pause.wav")
    assert utterance.seconds == pytest.approx(1.8) and utterance.speech == pytest.approx(0.3, abs=0.01)


def test_short_speech_gives_a_warning(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for checkpoint, seconds, least in (("model", 0.3, 0.5), ("model", 0.55, None), ("calibrated", 0.55, 0.6)):
        soundfile.write(tmp_path / "short.wav", voice(30, seconds, 0), 16000, subtype="PCM_16")
        call(home, "compare", "--checkpoint", home / f"{checkpoint}.pth", tmp_path / "short.wav", wav(home, 30, 0),
             "--threshold", "0.5")  # fmt: skip
        warning = capsys.readouterr().err
        if least:
            assert (
                warning.startswith(f"{tmp_path / 'short.wav'}: {seconds:.2f} s of speech")
                and f"{least:.2f} s" in warning
            )
        else:
            assert not warning


def test_invalid_waveforms() -> None:
    for waveform, rate in ((np.zeros((2, 2, 2)), 16000), (np.ones(5, np.int32), 16000), (np.ones(0), 16000)):
        with pytest.raises(ValueError, match="a waveform"):
            utterance_of(waveform, rate)
    with pytest.raises(UserError, match="silent"):
        utterance_of(np.zeros(500), 16000)


@pytest.mark.slow
def test_errors_are_one_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    good, junk = str(wav(home, 30, 0)), tmp_path / "junk.wav"
    junk.write_text("no sound")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "Eve.npz").write_bytes(b"PK junk")
    for name in ("odd", "older", "negative"):
        (tmp_path / name).mkdir()
    arrays: dict[str, Any] = {
        "embeddings": np.ones((1, 256), np.float32),
        "files": np.array("a.wav"),
        "checkpoint": np.array("ab"),
    }
    np.savez(tmp_path / "odd" / "Eve.npz", **arrays, seconds=np.ones(1))
    arrays["files"] = np.array(["a.wav"])
    np.savez(tmp_path / "older" / "Eve.npz", **arrays)
    np.savez(tmp_path / "negative" / "Eve.npz", **arrays, seconds=-np.ones(1))
    network, voices = ["--checkpoint", "model.pth"], ["--voices", str(tmp_path / "v")]
    recognize.main(["enroll", *network, *voices, "Ana", good])
    for arguments, kind, message in (
        (["compare", *network, good, "absent.wav"], UserError, "absent.wav: cannot be read"),
        (["compare", *network, good, str(junk), "--threshold", "0"], UserError, "junk.wav: no readable audio"),
        (["identify", "--checkpoint", "other.pth", *voices, good], UserError, "no calibration"),
        (["enroll", "--checkpoint", "other.pth", *voices, "Ana", good], UserError, "enrolled with another checkpoint"),
        (["identify", "--checkpoint", "other.pth", *voices, good, "--threshold", "0"], UserError, "another checkpoint"),
        (["enroll", *network, *voices, "../Ana", good], UserError, "invalid name"),
        (["enroll", *network, *voices, "unknown", good], UserError, "not a name"),
        (["list", "--voices", "nowhere"], UserError, "nowhere: no such folder"),
        (["list", "--voices", str(tmp_path / "broken")], UserError, "Eve.npz: damaged, or not a file of an enrolled"),
        (["list", "--voices", str(tmp_path / "odd")], UserError, "Eve.npz: damaged"),
        (["list", "--voices", str(tmp_path / "older")], UserError, "Eve.npz: .*enrol the speaker again"),
        (["list", "--voices", str(tmp_path / "negative")], UserError, "Eve.npz: damaged"),
        (["remove", *voices, "Zoe"], UserError, "Zoe: not enrolled"),
        (["embed", *network, good, "-o", "vectors.txt"], UsageError, "must end in .npz or .csv"),
        (["export", *network, "model.pt"], UsageError, "must end in .onnx or .pth"),
    ):
        with pytest.raises(UserError, match=message) as error:
            recognize.main(arguments + (["--threshold", "0"] if "absent.wav" in arguments else []))
        assert error.value.status == kind.status and "\n" not in str(error.value)
    monkeypatch.setattr(sys, "stdin", None)  # as after <&-
    with pytest.raises(UserError, match="standard input: closed"):
        read_utterance("-")
    done = run(home, "compare", "-", "-", check=2)
    assert done.stderr == "recognize.py: standard input (-) can be read once (--help lists the flags)\n"


@pytest.mark.slow
def test_the_onnx_file_gives_the_embeddings_of_the_network(home: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run(home, "export", "model.onnx")
    session = runtime.InferenceSession(str(home / "model.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["checkpoint_sha256"] == hashlib.sha256((home / "model.pth").read_bytes()).hexdigest()
    expected_metadata = {
        "n_mels": "40",
        "sample_rate": "16000",
        "sample_scale": "int16",
        "window_ms": "25",
        "step_ms": "10",
    }
    assert metadata.items() >= (expected_metadata | {"embedding_size": "256", "embedding_normalised": "no"}).items()
    assert metadata["mean_subtraction"] == "over time, inside the network" and "log mel" in metadata["features"]
    encoder, rng = Recognizer(home / "model.pth").encoder.eval(), np.random.default_rng(0)
    for n, frames in ((1, 50), (3, 137), (2, 500), (1, 1000)):
        features = rng.normal(3, 20, (n, 1, 40, frames)).astype(np.float32)
        (ours,) = session.run(None, {"features": features})
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(features)).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_export_has_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recognize.parse_args(["export", "--device", "cpu", "model.pth"])
    assert "unrecognized arguments: --device" in capsys.readouterr().err


def test_export_of_the_encoder_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = load_checkpoint(home / "model.pth")
    full.optimizer, full.state_dict["weight"] = {"state": {}}, torch.ones(4, 256)
    full.speakers, full.data_type, full.epoch = ["id00001", "id00002"], "vox2", 7
    full.state_dict["pretrained.bn1.running_var"] *= 1e6  # variances of real features exceed half precision
    save_checkpoint(home / "full.pth", full)
    recognize.main(["export", "--checkpoint", str(home / "full.pth"), str(home / "alone.Pth")])
    alone = load_checkpoint(home / "alone.Pth")
    assert (alone.speakers, alone.data_type, alone.epoch) == (full.speakers, "vox2", 7)  # excluded from evaluations
    assert alone.optimizer == {} and alone.class_vectors is None
    assert (home / "alone.Pth").stat().st_size < 0.51 * (home / "model.pth").stat().st_size
    files = [wav(home, 30, 0), wav(home, 31, 1)]
    full_precision, half = (Recognizer(home / name).embed_files(files) for name in ("full.pth", "alone.Pth"))
    np.testing.assert_allclose(half, full_precision, atol=1e-3)
    full.state_dict["fc1"][0, 0] = 1e6
    save_checkpoint(home / "full.pth", full)
    with pytest.raises(UserError, match="full.pth: cannot be converted to half precision"):
        recognize.main(["export", "--checkpoint", str(home / "full.pth"), str(home / "alone.Pth")])


def test_no_output_overwrites_an_input(home: Path, tmp_path: Path) -> None:
    """The inputs are a checkpoint, a link to it, a list of recordings, and a recording."""
    checkpoint, clip = Path(shutil.copy(home / "model.pth", tmp_path)), str(wav(home, 30, 0))
    (tmp_path / "list.csv").write_text(f"{clip}\n")
    (tmp_path / "link.onnx").symlink_to(checkpoint)
    shutil.copy(clip, tmp_path / "clip.npz")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for command, *arguments in (
        ("export", checkpoint),
        ("export", tmp_path / "link.onnx"),
        ("embed", f"@{tmp_path / 'list.csv'}", "-o", tmp_path / "list.csv"),
        ("embed", clip, tmp_path / "clip.npz", "-o", tmp_path / "clip.npz"),
    ):
        done = run(home, command, "--checkpoint", checkpoint, *arguments, check=2)
        assert f"{arguments[-1]}: is also an input" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_bundled_model_is_used_if_no_other_is_selected(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (recognize, recognizer_module):
        monkeypatch.setattr(module, "BUNDLED_MODEL", home / "calibrated.pth")
    monkeypatch.chdir(home)
    files = [str(wav(home, 30, 0)), str(wav(home, 32, 1))]
    recognize.main(["compare", *files, "--json"])
    given = capsys.readouterr()
    assert "calibrated.pth" in given.err and "--checkpoint" in given.err and len(given.err.splitlines()) == 1
    recognize.main(["compare", "--checkpoint", "calibrated.pth", *files, "--json"])
    named = capsys.readouterr()
    assert named.out == given.out and named.err == ""
    assert Recognizer().digest == hashlib.sha256((home / "calibrated.pth").read_bytes()).hexdigest()
    for flags in (["--n_folder", "0"], ["--cp_num", "3"], ["--model_path", "saved_model"]):
        with pytest.raises(UserError, match="baseline_000"):
            recognize.main(["compare", *flags, *files])


def test_export_names_missing_packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install -r requirements-export.txt"):
        recognize.main(["export", "--checkpoint", str(home / "model.pth"), str(home / "x.onnx")])
    assert not (home / "x.onnx").exists()


def test_a_folder_of_speakers_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        load_speakers(tmp_path)

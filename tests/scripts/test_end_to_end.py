"""The real scripts, run as a user runs them, from wavs to the three result lines."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
import torch
from conftest import PROJECT, here, present, run_script, write_wavs

from configure import TREES, TRIALS_NAME
from dataset.features import read_feature
from evaluation.calibration import load_calibration
from evaluation.metrics import verification_metrics
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from system.files import sha256

pytestmark = pytest.mark.slow

DIFFERENCE = ("difference", "difference_low", "difference_high")
TRAIN = ["--backbone", "resnet18", "--nb_class_train", "4", "--precision", "fp32", "--lr", "0.03"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ (wavs, features, a trial list) and saved_model/ (a trained run 0)."""
    home = tmp_path_factory.mktemp("home")
    write_wavs(home / "data", "vox2_dev", range(6), 4)
    write_wavs(home / "data", "vox1_dev", range(20, 22), 7, seconds=1.1)
    write_wavs(home / "data", "vox1_test", range(30, 33), 7, seconds=1.1)
    run_script("feat_extract/feature_extraction.py", "--num_workers", 2, cwd=home)
    names = [f"id{s:05d}/video{u % 2}/{u:05d}.wav" for s in range(30, 33) for u in range(7)]
    pairs = [(a, b) for a in names for b in names if a < b]
    text = "".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in pairs)
    (home / "data" / "trial_pair_Verification.txt").write_text(text)
    run_script("train.py", *TRAIN, "--max_epoch", 2, cwd=home)
    return home


@pytest.fixture(scope="module")
def steady(home: Path) -> Path:
    """The folder of run 8: random weights with the batch-norm statistics of the training speech.

    Its scores differ between processors by their rounding alone. Two epochs of training end elsewhere on each kind of
    processor, and not always with scores that can be calibrated.
    """
    torch.manual_seed(0)
    encoder = Encoder("resnet18").train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0
    files = sorted((home / "data" / TREES["vox2_dev"].feat).rglob("*.pkl"))
    with torch.no_grad():
        encoder(torch.from_numpy(np.stack([read_feature(file)[:100].T for file in files]))[:, None])
    folder = home / "saved_model" / "baseline_008"
    folder.mkdir()
    speakers = [f"id{s:05d}" for s in range(6)]
    save_checkpoint(folder / "checkpoint_001.pth", Checkpoint(1, state_dict_of(encoder, None), speakers=speakers))
    return folder


def result_of(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout)  # --json: JSON alone


def test_extraction_writes_every_feature_and_skips_what_is_done(home: Path) -> None:
    trees = (("vox2_dev", "id00003", 269), ("vox1_dev", "id00020", 119), ("vox1_test", "id00031", 119))
    for tree, speaker, n_frames in trees:  # of 2.7 and 1.2 s
        feat = read_feature(home / "data" / TREES[tree].feat / speaker / "video1" / "00001.pkl")
        assert feat.shape == (n_frames, 40) and feat.dtype == np.float32
        np.testing.assert_allclose(feat.mean(axis=0), 0, atol=1e-3)
    done = run_script("feat_extract/feature_extraction.py", cwd=home)
    assert "0 files written, 59 existed already, 0 failed" in done.stdout


def test_training_leaves_checkpoints_a_log_and_its_settings(home: Path) -> None:
    folder = home / "saved_model" / "baseline_000"
    assert sorted(path.name for path in folder.glob("*.pth")) == ["checkpoint_001.pth", "checkpoint_002.pth"]
    log = pandas.read_csv(folder / "log.csv")
    assert log["epoch"].tolist() == [1, 2] and (log["lr"] == 0.03).all()
    assert np.allclose(log["loss"], log["episodic_loss"] + log["global_loss"])
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"]["nb_class_train"] == 4 and config["arguments"]["loss_type"] == "prototypical"
    assert config["speakers"] == [f"id{s:05d}" for s in range(6)]
    assert load_checkpoint(folder / "checkpoint_002.pth").speakers == config["speakers"]


def test_full_evaluation(home: Path) -> None:
    done = run_script("EER_full.py", "--n_folder", 0, "--cp_num", 2, "--save_scores", "s.csv", "--json", cwd=home)
    result = result_of(done)
    keys = "eer eer_interpolated eer_low eer_high threshold min_dcf_0.01 min_dcf_0.001"
    assert list(result) == [*keys.split(), "n_trials", "n_target", "n_speakers", "seconds"]
    assert (result["n_trials"], result["n_target"], result["n_speakers"]) == (210, 63, 3)
    assert f"EER {result['eer']:.2f} %" in done.stderr
    scores = pandas.read_csv(home / "s.csv")
    columns = "label enrol test score enrol_seconds test_seconds enrol_speaker test_speaker"
    assert list(scores.columns) == columns.split()
    rates = verification_metrics(scores["score"].to_numpy(), scores["label"].to_numpy())
    percent = [100 * rates.eer, 100 * rates.eer_interpolated]
    expected = ("eer", "eer_interpolated", "threshold", "min_dcf_0.01", "min_dcf_0.001")
    assert [result[name] for name in expected] == pytest.approx([*percent, *rates[2:]], abs=1e-9)


@pytest.fixture(scope="module")
def five(home: Path, steady: Path) -> list:
    """Flags that score 300 trials of five speakers, 50 of them target, at three lengths; by the steady network."""
    names = [f"id{s:05d}/video{u % 2}/{u:05d}.wav" for s in (20, 21, 30, 31, 32) for u in range(5)]
    pairs = [(a, b) for a in names for b in names if a < b]
    (home / "five.txt").write_text("".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in pairs))
    return ["--n_folder", 8, "--trials", "five.txt", "--test_length", "25", "50", "full"]


def test_calibration_is_fitted_kept_and_reported(home: Path, steady: Path, five: list) -> None:
    n_target, n_all = 50, 3 * 300
    flags = ["--calibrate", "True", "--save_scores", "held_out.csv", "--json"]
    done = here("EER_short.py", *five, *flags, cwd=home)
    result, scores = result_of(done), pandas.read_csv(home / "held_out.csv")
    columns = "label enrol test length score enrol_seconds test_seconds llr enrol_speaker test_speaker"
    assert list(scores.columns) == columns.split() and len(scores) == n_all
    assert scores[scores["length"] == "25"]["test_seconds"].unique().tolist() == [0.25]
    frames = scores[["enrol", "enrol_seconds"]].drop_duplicates().head(20)
    for name, seconds in frames.itertuples(index=False):  # full utterances, at 100 frames a second
        tree = TREES["vox1_dev" if name < "id00030" else "vox1_test"].feat
        assert len(read_feature((home / "data" / tree / name).with_suffix(".pkl"))) == round(100 * seconds)
    kept = json.loads((steady / "checkpoint_001.calibration.json").read_text())
    assert (kept["n_target"], kept["n_nontarget"]) == (3 * n_target, n_all - 3 * n_target)
    assert kept["test_seconds"][0] == 0.25
    assert kept["checkpoint_sha256"] == sha256(steady / "checkpoint_001.pth")
    measured = scores.dropna(subset="llr")
    assert f"{len(measured):,} trials are scored, {n_all - len(measured):,} between the folds" in done.stderr
    for of_length in [*result["lengths"], {"length": "all", "llr": result["llr"]}]:
        at = (measured["length"] == of_length["length"]) | (of_length["length"] == "all")
        llr, label = measured["llr"][at], measured["label"][at] == 1
        rates = of_length["llr"]
        assert rates["misses"] == pytest.approx(100 * (llr[label] < 0).mean())
        assert rates["false_alarms"] == pytest.approx(100 * (llr[~label] >= 0).mean())
        bits = np.log2(1 + np.exp(-llr[label])).mean() + np.log2(1 + np.exp(llr[~label])).mean()
        assert rates["cllr"] == pytest.approx(bits / 2) and rates["min_cllr"] <= rates["cllr"]
        start = "all lengths: " if of_length["length"] == "all" else f"test {of_length['length']}: "
        assert f"{start}LLR of {at.sum():,} trials: EER {rates['eer']:.2f} %, at LLR 0 misses" in done.stderr
    later = here("EER_short.py", *five, "--save_scores", "kept.csv", "--json", cwd=home)
    assert "folds" not in later.stderr and f"fitted on {n_all:,} trials" in later.stderr
    again = pandas.read_csv(home / "kept.csv")
    assert again["llr"].notna().all() and result_of(later)["llr"]["n_trials"] == n_all
    np.testing.assert_allclose(again["score"], scores["score"], atol=1e-6)


def test_trials_that_support_no_calibration_have_their_scores_written(home: Path) -> None:
    checkpoint = shutil.copy(home / "saved_model" / "baseline_000" / "checkpoint_002.pth", home / "copy.pth")
    flags = ["--checkpoint", checkpoint, "--calibrate", "True", "--save_scores", "full.csv"]
    done = here("EER_full.py", *flags, cwd=home, check=1)
    assert done.stderr == "EER_full.py: calibration: 3 speakers in data cannot be split into halves of two or more\n"
    assert "EER " in done.stdout and len(pandas.read_csv(home / "full.csv")) == 210
    assert not (home / "copy.calibration.json").exists()
    (home / "blind.txt").write_text("id00030/video0/00000.wav id00031/video0/00000.wav\n")
    done = here("EER_full.py", *flags, "--trials", "blind.txt", cwd=home, check=2)
    assert "blind.txt: no labels" in done.stderr


def test_short_trials_are_sampled_once(home: Path) -> None:
    first = run_script("EER_short.py", "--test_length", 10, "--json", cwd=home)
    run = home / "saved_model" / "baseline_000"
    unfinished = Path(shutil.copy(run / "checkpoint_001.pth", run / "unfinished_epoch.pth"))
    again = here("EER_short.py", "--test_length", 10, "--json", cwd=home)
    unfinished.unlink()  # a training within an epoch: the last complete epoch is scored
    assert result_of(first) == result_of(again) and "checkpoint_002.pth, after epoch 2" in again.stderr
    assert result_of(first)["n_trials"] == 5 * 200 and result_of(first)["n_target"] == 5 * 100
    kept = home / "saved_model" / "baseline_000" / "short_trials_seed100.txt"
    assert len(kept.read_text().splitlines()) == 1000


def test_two_models_on_the_same_trials(home: Path) -> None:
    lengths = ["--test_length", 50, "full", "--json"]
    trials = ["--trials", f"data/{TRIALS_NAME}", *lengths]
    first = result_of(here("EER_short.py", *trials, "--cp_num", 1, "--save_scores", "first.csv", cwd=home))["lengths"]
    compare = ["--compare", "first.csv"]
    itself = result_of(here("EER_short.py", *trials, "--cp_num", 1, *compare, cwd=home))["lengths"]
    done = here("EER_short.py", *trials, "--cp_num", 2, *compare, cwd=home)
    for before, same, after in zip(first, itself, result_of(done)["lengths"], strict=True):
        assert same["compared"] == {"eer": before["eer"]} | dict.fromkeys(DIFFERENCE, 0)
        compared = after["compared"]
        assert compared["eer"] == before["eer"]
        assert compared["difference"] == pytest.approx(after["eer"] - before["eer"], abs=1e-9)
        assert compared["difference_low"] <= compared["difference_high"]
        expected = (
            f"EER of --compare {before['eer']:.2f} %, difference {compared['difference']:+.2f} points (95 % interval"
        )
        assert f"test {after['length']}: {expected}" in done.stderr
    here("EER_full.py", "--cp_num", 1, "--save_scores", "full.csv", cwd=home)
    full = [here("EER_full.py", "--compare", name, "--json", cwd=home) for name in ("full.csv", "first.csv")]
    assert result_of(full[0])["compared"] == result_of(full[1])["compared"] == after["compared"]
    of_full = pandas.read_csv(home / "full.csv")
    for column in ("label", "enrol", "test"):
        turned = of_full.assign(**{column: of_full[column].to_numpy()[::-1]})
        turned.to_csv(home / f"other_{column}.csv", index=False)
    of_full[["label", "enrol", "test", "score"]].to_csv(home / "bare.csv", index=False)
    of_full.assign(enrol_seconds=of_full["enrol_seconds"] + 1).to_csv(home / "long.csv", index=False)
    (home / "full.csv.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    refused = here("EER_full.py", "--compare", "full.csv", "--save_scores", "full.csv", cwd=home, check=2)
    assert "full.csv: is also an input" in refused.stderr
    one = ["EER_short.py", "--trials", f"data/{TRIALS_NAME}", "--test_length"]
    for wrong, expected in (
        *(
            (["EER_full.py", "--compare", f"other_{name}.csv"], "test length full")
            for name in ("label", "enrol", "test")
        ),
        ([*one, "50", "--compare", "full.csv"], "full.csv: the trials"),  # of the same names
        ([*one, "60", "full", "--compare", "first.csv"], "at test length 60"),
        ([*one, "full", "--noise_snr", "5", "--compare", "full.csv"], "at test length full, SNR 5"),
        ([*one, "50", "--compare", "bare.csv"], "bare.csv: no column 'enrol_seconds'"),
        (["EER_full.py", "--compare", "long.csv"], "long.csv: the trials"),  # of longer enrolments
        (["EER_full.py", "--compare", "full.csv.gz"], "not a score file"),
        ([*one, "50", "--compare", "none.csv"], "none.csv: no such score file"),
        ([*one, "50", "--compare", f"data/{TRIALS_NAME}"], "not a score file"),
    ):
        done = here(*wrong, cwd=home, check=1)
        assert expected in done.stderr and len(done.stderr.splitlines()) == 1


def test_calibration_is_of_speech_without_pauses(home: Path, steady: Path, five: list, tmp_path: Path) -> None:
    """Silence around the recordings changes no calibration."""
    for tree in ("vox1_dev", "vox1_test"):
        source = home / "data" / TREES[tree].wav
        for path in source.rglob("*.wav"):
            copy = tmp_path / TREES[tree].wav / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            pauses = np.zeros(20_000 + 3000 * len(path.name), np.int16), np.zeros(35_000, np.int16)
            soundfile.write(copy, np.concatenate([pauses[0], soundfile.read(path, dtype="int16")[0], pauses[1]]), 16000)
    here("feat_extract/feature_extraction.py", "--save_path", tmp_path, "--num_workers", 1, cwd=home)
    fitted, scores = [], []
    for root in ("data", tmp_path):
        flags = [*five, "--calibrate", "True", "--save_path", root, "--save_scores", "trimmed.csv"]
        done = here("EER_short.py", *flags, cwd=home)
        assert "silence is trimmed" in done.stdout
        path = steady / "checkpoint_001.pth"
        fitted.append(present(load_calibration(path, sha256(path))))
        table = pandas.read_csv(home / "trimmed.csv")
        scores.append(table["score"][table["length"] == "full"])
    bare, padded = fitted
    np.testing.assert_allclose(padded.enrol_seconds, bare.enrol_seconds, atol=0.04)
    np.testing.assert_allclose(padded.test_seconds, bare.test_seconds, atol=0.04)
    assert np.abs(scores[0] - scores[1]).mean() < 0.15  # three frames of silence stay: 0.08; with all of it: 0.67
    done = here("EER_short.py", "--calibrate", "True", "--trim_silence", "False", cwd=home, check=2)
    assert "--trim_silence" in done.stderr and len(done.stderr.splitlines()) == 1


def test_several_development_sets_calibrate_together_clean_and_in_noise(home: Path, steady: Path, five: list) -> None:
    n_trials = []
    for name, numbers in (("two.txt", (20, 21)), ("three.txt", (30, 31, 32))):
        names = [f"id{s:05d}/video{u % 2}/{u:05d}.wav" for s in numbers for u in range(7)]
        pairs = [(a, b) for a in names for b in names if a < b]
        (home / name).write_text("".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in pairs))
        n_trials.append(4 * len(pairs))  # two lengths, two conditions
    sets = ["--save_path", "data", "data", "--trials"]
    network = ["--n_folder", 8, "--test_length", 25, "full"]
    conditions = ["--noise_snr", "clean", 10, "--calibrate", "True", "--json"]
    done = here("EER_short.py", *network, *sets, "five.txt", "two.txt", *conditions, cwd=home, check=2)
    assert "2 speakers, such as id00020, are in both sets data/five and data/two; join their lists" in done.stderr
    assert "scored" not in done.stderr and not done.stdout
    done = here("EER_short.py", *network, *sets, "two.txt", "three.txt", *conditions, cwd=home)
    result = result_of(done)
    assert [(of["set"], of["n_trials"]) for of in result["sets"]] == [
        (name, n) for name, n in zip(("data/two", "data/three"), n_trials, strict=True)
    ]
    path = steady / "checkpoint_001.pth"
    kept = present(load_calibration(path, sha256(path)))
    assert kept.sets == ("data/two", "data/three") and kept.n_target + kept.n_nontarget == sum(n_trials)
    assert kept.target_speakers == kept.nontarget_speakers == (2, 3)
    for rates in result["sets"]:
        line = f"{rates['set']}: Cllr {rates['cllr']:.4f} (minimum {rates['min_cllr']:.4f})"
        assert line in done.stderr and f"misses {rates['misses']:.2f} %" in done.stderr
    assert f"mean: Cllr {result['mean']['cllr']:.4f}" in done.stderr
    written = json.loads((steady / "checkpoint_001.calibration.json").read_text())
    assert written["leave_one_set_out"] == result
    # One set by itself: the clean tests are in the fit, and 2-fold cross-validation has their rates and those in noise.
    one = ["--n_folder", 8, "--test_length", 50, "full", "--trials", "five.txt", "--reverb", "True"]
    one += ["--calibrate", "True", "--save_scores", "one.csv", "--json"]
    found = result_of(here("EER_short.py", *one, cwd=home))
    assert [(of["length"], of["snr"]) for of in found["lengths"]] == list(
        itertools.product(("50", "full"), ("clean", "dry"))
    )
    assert set(pandas.read_csv(home / "one.csv")["snr"]) == {"clean", "dry"}
    here("plots.py", "length", "one.csv", "-o", "one.png", cwd=home)


def test_a_repeated_utterance_counts_its_own_seconds(home: Path) -> None:
    listed = (home / "data" / TRIALS_NAME).read_text().splitlines(keepends=True)[::5]
    (home / "fifth.txt").write_text("".join(listed))
    lengths = ["--trials", "fifth.txt", "--test_length", "400", "full", "--save_scores", "repeated.csv"]
    repeated, full = result_of(here("EER_short.py", *lengths, "--json", cwd=home))["lengths"]
    scores = pandas.read_csv(home / "repeated.csv").groupby("length", sort=False)["test_seconds"]
    of_length = {str(length): seconds.to_numpy() for length, seconds in scores}
    assert 1.0 < of_length["full"].min() and of_length["full"].max() < 1.8  # as the wavs were written
    np.testing.assert_array_equal(of_length["400"], of_length["full"])
    assert repeated["seconds"] < full["seconds"] + len(listed) * 1.8  # windows that start elsewhere, not 4 s each
    episodes = ["--nb_class_test", "3", "--nb_episode", "2", "--enroll_length", "400", "--test_length", "400"]
    assert result_of(here("identification.py", *episodes, "--json", cwd=home))["seconds"] < 36 * 1.8  # 36 windows


def test_evaluation_in_noise(home: Path) -> None:
    listed = (home / "data" / TRIALS_NAME).read_text().splitlines(keepends=True)
    (home / "some.txt").write_text("".join(listed[::8]))
    trials = ["--trials", "some.txt", "--json"]
    here("EER_short.py", *trials, "--test_length", 100, "--save_scores", "c.csv", cwd=home)
    flags = [*trials, "--test_length", 100, "full", "--noise_snr", "clean", 0, "--save_scores", "n.csv"]
    done = here("EER_short.py", *flags, cwd=home)
    found = result_of(done)["lengths"]
    conditions = [("100", "clean"), ("100", "0"), ("full", "clean"), ("full", "0")]
    assert [(of["length"], of["snr"]) for of in found] == conditions
    assert "babble of other speakers; SNRs (dB): clean, 0" in done.stderr
    alone = here("EER_short.py", *trials, "--test_length", 100, "--noise_snr", "clean", cwd=home)
    assert "tests in no noise; SNRs (dB): clean" in alone.stderr
    assert f"test 100, SNR 0: EER {found[1]['eer']:.2f} %" in done.stderr
    before, scores = (pandas.read_csv(home / name, dtype={"snr": str, "length": str}) for name in ("c.csv", "n.csv"))
    assert scores.columns.tolist()[:6] == ["label", "enrol", "test", "length", "snr", "score"]
    of_condition = {at: part["score"].to_numpy() for at, part in scores.groupby(["length", "snr"])}
    assert set(of_condition) == set(conditions)
    np.testing.assert_allclose(of_condition["100", "clean"], before["score"], atol=1e-5)
    assert np.abs(of_condition["100", "0"] - before["score"]).max() > 1e-4
    for rates, at in zip(found, conditions, strict=True):
        eer = verification_metrics(of_condition[at], before["label"].to_numpy()).eer
        assert 100 * eer == pytest.approx(rates["eer"], abs=1e-9)
    flags = ["--noise_snr", 0, 0, "--test_length", 100, 100, "--compare", "n.csv"]  # which has other conditions too
    again = here("EER_short.py", *trials, *flags, cwd=home)
    assert result_of(again)["eer"] == found[1]["eer"]
    assert result_of(again)["compared"] == {"eer": found[1]["eer"]} | dict.fromkeys(DIFFERENCE, 0)
    assert "test windows of 100 frames (1.00 s)\n" in again.stderr and "SNRs (dB): 0\n" in again.stderr
    here("plots.py", "length", "n.csv", "-o", "n.svg", cwd=home)
    room = here("EER_short.py", *trials, "--reverb", True, "--test_length", 100, cwd=home)
    assert "tests in reverberation (computed)" in room.stderr
    for wrong, expected in (
        (["--noise_dir", "x"], "--noise_dir has no effect without --noise_snr in dB"),
        (["--rir_dir", "x"], "--rir_dir has no effect without --reverb True"),
        (["--save_path", "a", "b", "--trials", "a.txt", "b.txt"], "--calibrate True"),
        (["--save_path", "a", "b", "--calibrate", "True"], "0 lists for 2 data roots"),
        (["--trials", "a.txt", "b.txt", "--calibrate", "True"], "2 lists for 1 data roots"),
        (["--noise_snr", "1e9"], "'1e9' is neither clean nor a number from -100 to 100"),
        (["--noise_snr", "loud"], "'loud' is neither clean nor a number"),
    ):
        done = here("EER_short.py", *wrong, cwd=home, check=2)
        assert expected in done.stderr and len(done.stderr.splitlines()) == 1


def test_lists_of_other_toolkits_give_the_same_scores(home: Path) -> None:
    """Also models of two utterances: their cosine follows from those of the utterances."""
    rows = [line.split() for line in (home / "data" / TRIALS_NAME).read_text().splitlines()]
    kaldi = [f"{a} {b} {'target' if int(label) else 'nontarget'}" for label, a, b in rows]
    blind = ["\\".join(["C:", "wavs", *a.split("/")]) + f" /wavs/{b.removesuffix('.wav')}" for _, a, b in rows]
    scores = {}
    for name, lines in (("voxceleb", [" ".join(row) for row in rows]), ("kaldi", kaldi), ("blind", blind)):
        (home / f"{name}.txt").write_text("\n".join(lines))
        here("EER_full.py", "--trials", f"{name}.txt", "--save_scores", f"{name}.csv", cwd=home)
        scores[name] = pandas.read_csv(home / f"{name}.csv")
    columns = ["enrol", "test", "score", "enrol_seconds", "test_seconds", "enrol_speaker", "test_speaker"]
    for name, wanted in (("blind", columns), ("kaldi", ["label", *columns])):
        assert list(scores[name]) == wanted
    for name in ("kaldi", "blind"):
        assert (scores[name]["score"] == scores["voxceleb"]["score"]).all()
    refused = here("EER_full.py", "--trials", "blind.txt", cwd=home, check=2)
    assert "blind.txt: no labels" in refused.stderr and "--save_scores" in refused.stderr
    refused = here("EER_full.py", "--trials", "blind.txt", "--compare", "kaldi.csv", cwd=home, check=2)
    assert "blind.txt: no labels" in refused.stderr
    cosine = {frozenset((a, b)): s for a, b, s in scores["voxceleb"][columns[:3]].itertuples(index=False)}
    first, second, *tests = sorted({name for _, a, b in rows for name in (a, b)})
    (home / "enroll.lst").write_text(f"pair {first} {second}\nunused {tests[0]}\n")
    of_pair = {True: "target", False: "nontarget"}
    lines = [f"pair {test} {of_pair[test[:7] == first[:7]]}" for test in tests]
    (home / "models.txt").write_text("\n".join(lines))
    flags = ["--trials", "models.txt", "--enroll", "enroll.lst", "--save_scores", "models.csv", "--json"]
    result = result_of(here("EER_full.py", *flags, cwd=home))
    expected = [
        (cosine[frozenset((first, test))] + cosine[frozenset((second, test))])
        / np.sqrt(2 + 2 * cosine[frozenset((first, second))])
        for test in tests
    ]
    of_models = pandas.read_csv(home / "models.csv")
    np.testing.assert_allclose(of_models["score"], expected, atol=1e-5)
    seconds = dict(zip(scores["voxceleb"]["enrol"], scores["voxceleb"]["enrol_seconds"], strict=True))
    np.testing.assert_allclose(of_models["enrol_seconds"], seconds[first] + seconds[second])
    assert (result["n_trials"], result["n_speakers"]) == (len(tests), 3)
    wrong = here("EER_full.py", "--trials", "voxceleb.txt", "--enroll", "enroll.lst", cwd=home, check=1)
    assert "not in the enrolment list" in wrong.stderr


def test_identification(home: Path, steady: Path) -> None:
    settings = ["--nb_class_test", 4, "--nb_episode", 8, "--enroll_length", 60, "--test_length", 40]
    flags = ["--n_folder", 8, *settings, "--json"]
    done = run_script("identification.py", *flags, cwd=home)
    result = result_of(done)
    assert list(result) == ["accuracy", "ci95", "n_episodes", "n_way", "n_shot", "n_excluded", "n_speakers", "seconds"]
    assert (result["n_episodes"], result["n_way"], result["n_shot"]) == (8, 4, 1)
    assert result["accuracy"] > 30 and "4-way 1-shot" in done.stderr  # chance: 25 %
    assert result_of(here("identification.py", *flags, cwd=home)) == result
    several = here("identification.py", *flags, "--nb_class_test", 2, 4, "--n_shot", 1, 2, cwd=home)
    kinds = result_of(several)["settings"]
    assert [(kind["n_way"], kind["n_shot"]) for kind in kinds] == [(2, 1), (4, 1), (2, 2), (4, 2)]
    alone = {name: result[name] for name in kinds[1]}
    assert kinds[1] == pytest.approx(alone, abs=1e-9) and kinds[0]["accuracy"] > kinds[1]["accuracy"]


def test_speakers_trained_on_are_left_out(home: Path) -> None:
    flags = ["--data_type", "vox1", "--nb_class_train", 2, "--max_epoch", 0, "--n_folder", 5]
    here("train.py", *TRAIN, *flags, cwd=home)
    done = here("EER_short.py", "--n_folder", 5, "--test_length", 20, "--json", cwd=home)
    assert "speakers: 3 not in the training; 2 training speakers are excluded" in done.stderr
    here("EER_full.py", "--n_folder", 5, "--as_norm", 2, cwd=home)  # the cohort: the two, of VoxCeleb1's tree
    assert result_of(done)["n_speakers"] == 3


def test_short_trials_follow_the_training_data_of_an_official_checkpoint(home: Path) -> None:
    ours = load_checkpoint(home / "saved_model" / "baseline_000" / "checkpoint_002.pth")
    folder = home / "released"
    folder.mkdir()
    torch.save({"epoch": 3, "state_dict": ours.state_dict, "optimizer": {}}, folder / "release.pth")
    flags = ["--checkpoint", folder / "release.pth", "--test_length", 20, "--json"]
    everyone = here("EER_short.py", *flags, cwd=home)  # by default it was trained on VoxCeleb2
    assert result_of(everyone)["n_speakers"] == 5
    unseen = here("EER_short.py", *flags, "--data_type", "vox1", cwd=home)
    assert result_of(unseen)["n_speakers"] == 3 and "resampled" in unseen.stderr
    trained_on = {path.name for path in (home / "data" / TREES["vox1_dev"].feat).iterdir()}
    listed = (folder / "short_trials_seed100.txt").read_text()
    assert len(trained_on) == 2 and not any(name in listed for name in trained_on)


def test_an_official_checkpoint_works_in_all_scripts(home: Path) -> None:
    ours = load_checkpoint(home / "saved_model" / "baseline_000" / "checkpoint_002.pth")
    torch.save({"epoch": 3, "state_dict": ours.state_dict, "optimizer": {}}, home / "release.pth")
    for script, *flags in (  # EER_short.py: the test before this
        ["EER_full.py"],
        ["identification.py", "--nb_class_test", 3, "--nb_episode", 5, "--data_type", "vox1"],
    ):
        done = here(script, "--checkpoint", "release.pth", *flags, "--json", cwd=home)
        assert result_of(done)["n_speakers"] == 3
    folder = home / "saved_model" / "baseline_007"
    folder.mkdir()
    (home / "release.pth").rename(folder / "checkpoint_002.pth")
    done = here("train.py", *TRAIN, "--use_checkpoint", "True", "--n_folder", 7, "--max_epoch", 3, cwd=home)
    assert "2 epochs and 0 episodes completed" in done.stdout and (folder / "checkpoint_003.pth").exists()


def test_save_path_by_environment_and_by_configure(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import configure

    assert (PROJECT / "configure.py").read_text().splitlines()[1].startswith("save_path = ")
    monkeypatch.setenv("METASR_SAVE_PATH", "from/environment")
    assert configure.save_root(None) == Path("from/environment") and configure.save_root("flag") == Path("flag")
    monkeypatch.delenv("METASR_SAVE_PATH")
    assert configure.save_root(None) == Path(configure.save_path)


def test_the_official_checkpoint_has_its_scores_on_real_speech(shared: Path, tmp_path: Path) -> None:
    """The trials among two of the speakers; what the scores of all amount to needs no network."""
    listed = (shared / "corpus" / "trial_pair_Verification.txt").read_text().splitlines()
    golden = json.loads((shared / "golden" / "release_scores.json").read_text())
    rates = verification_metrics(np.array(golden["scores"]), np.array([line[0] == "1" for line in listed]))
    assert 100 * rates.eer == pytest.approx(golden["eer"], abs=1e-9) == 9.25
    assert rates.min_dcf_01 == pytest.approx(0.794) and rates.min_dcf_001 == pytest.approx(0.8285)
    two = sorted({line.split()[1].split("/")[0] for line in listed})[:2]
    kept = [at for at, line in enumerate(listed) if all(name.split("/")[0] in two for name in line.split()[1:])]
    trials = [listed[at] for at in kept]
    assert len({line[0] for line in trials}) == 2 and len(trials) > 100
    (tmp_path / "trials.txt").write_text("\n".join(trials))
    for name in sorted({name for line in trials for name in line.split()[1:]}):
        samples, rate = soundfile.read((shared / "corpus" / "vox1_test" / name).with_suffix(".flac"), dtype="int16")
        path = tmp_path / "data" / TREES["vox1_test"].wav / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype="PCM_16")
    run_script("feat_extract/feature_extraction.py", cwd=tmp_path)
    checkpoint = shutil.copy(shared / "golden" / "release_checkpoint.pth", tmp_path)  # what is kept lies beside it
    run_script(
        "EER_full.py", "--checkpoint", checkpoint, "--trials", "trials.txt", "--save_scores", "s.csv", cwd=tmp_path
    )
    scores = pandas.read_csv(tmp_path / "s.csv")["score"]
    np.testing.assert_allclose(scores, np.array(golden["scores"])[kept], atol=1e-5)

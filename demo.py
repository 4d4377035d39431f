"""The whole pipeline on synthetic voices: corpus, features, training, three evaluations and a table, in ten minutes.

    make demo
    python demo.py

Runs the scripts as a user runs them on VoxCeleb. Everything is written to demo_data; a second run keeps corpus and
features and trains anew. The exit status is 1 if the trained network does not beat the untrained one and the MFCC
statistics at every length.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch

import EER_short
import identification
from configure import N_MELS, SAMPLE_RATE, TREES, TRIALS_NAME
from dataset.index import FeatureIndex
from dataset.trials import read_trials
from evaluation import evaluator
from evaluation.embedding import Segments
from evaluation.metrics import verification_metrics
from feat_extract.fbank import N_FFT, STEP, WINDOW
from model.checkpoint import run_folder
from system import console
from system.console import UserError

NOTICE = "These voices are synthetic, made by eSpeak NG: the figures say nothing about human speech."
ROOT = Path("demo_data")
MODELS = ROOT / "saved_model"
SEED = 100  # of voices, trials, weights and episodes
COMMON = ["--save_path", str(ROOT), "--seed", str(SEED)]
PAPER = ["--loss_type", "prototypical", "--use_GC", "True", "--n_shot", "1", "--n_query", "2", "--use_variable", "True"]
# 60 speakers and 80 episodes in all: fewer speakers an episode than the paper's 100, and smaller steps than its 0.1.
TRAINING = [*PAPER, "--nb_class_train", "15", "--lr", "0.01"]
EPOCHS = 5
UNTRAINED, TRAINED = 0, 1  # numbers of the runs' folders
LENGTHS = (EER_short.FULL, 200, 100)  # of the test side, in frames
N_WAY = 20  # of identification
EPISODES = ["--nb_class_test", str(N_WAY), "--nb_episode", "20"]
N_MFCC = 20


def main(argv: list[str]) -> None:
    """Run every stage and print the table; UserError if training has not paid off."""
    console.Parser(__doc__).parse_args(argv)  # --help is the only flag
    started = time.monotonic()
    print(NOTICE)
    run("dataprep.py", "--demo", *COMMON)
    run("feat_extract/feature_extraction.py", "--save_path", str(ROOT))
    for folder in (UNTRAINED, TRAINED):  # others may be the user's
        shutil.rmtree(run_folder(str(MODELS), folder), ignore_errors=True)
    for folder, epochs in ((UNTRAINED, 0), (TRAINED, EPOCHS)):
        run("train.py", *TRAINING, "--max_epoch", str(epochs), *model_flags(folder), *COMMON)
    results = {
        "untrained network": evaluate(UNTRAINED),
        "MFCC statistics": evaluate_statistics(),
        "trained network": evaluate(TRAINED),
    }
    print(f"\n{table(results)}\n\n{NOTICE}\n{time.monotonic() - started:.0f} s in all")
    *others, trained = results.values()
    if any(trained[at] >= other[at] for other in others for at in range(len(LENGTHS))):
        raise UserError("the trained network does not beat both others at every length: training has not worked")


def model_flags(folder: int) -> list[str]:
    """Return the flags that name a run's folder."""
    return ["--model_path", str(MODELS), "--n_folder", str(folder)]


def run(script: str, *flags: str) -> str:
    """Run one of the scripts, showing what it prints; return its last line. UserError if it fails."""
    print(f"\n$ python {shlex.join([script, *flags])}")
    started, line = time.monotonic(), ""
    command = [sys.executable, str(Path(__file__).resolve().parent / script), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            print(line, end="")
    if process.returncode:
        raise UserError(f"{script} ended with status {process.returncode}")
    print(f"({time.monotonic() - started:.0f} s)")
    return line


def evaluate(folder: int) -> list[float]:
    """Return what the evaluators say of a run's newest checkpoint: EERs as of LENGTHS, and the accuracy, in percent."""
    flags = ["--precision", "auto", "--json", *model_flags(folder), *COMMON]
    trials = ["--trials", str(ROOT / TRIALS_NAME)]
    whole = json.loads(run("EER_full.py", *trials, *flags))
    short = json.loads(run("EER_short.py", "--test_length", *map(str, LENGTHS[1:]), *trials, *flags))
    identified = json.loads(run("identification.py", *EPISODES, *flags))
    return [*(rates["eer"] for rates in (whole, *short["lengths"])), identified["accuracy"]]


def evaluate_statistics() -> list[float]:
    """Return how far mean and deviation of MFCCs go, on the trials, windows and episodes that `evaluate` scores."""
    print("\nMFCC statistics, on the same trials and episodes; the checkpoint only says which speakers are unseen")
    args = identification.parse_args([*EPISODES, *model_flags(UNTRAINED), *COMMON])
    setting = evaluator.set_up(args)
    features, trials = setting.features, read_trials(ROOT / TRIALS_NAME)
    mfccs = mfccs_of(features, ROOT / TREES["vox1_test"].wav)
    enrol = statistics_of(mfccs, Segments.whole(features, features.rows(trials.enrol)))
    results = []
    for length in LENGTHS:
        sides = EER_short.test_segments(features, features.rows(trials.test), length, SEED)
        test = statistics_of(mfccs, sides)
        results.append(100 * verification_metrics((enrol * test).sum(axis=1), trials.label).eer)
    windows = statistics_of(mfccs, identification.draw_windows(args, setting, N_WAY, n_shot=1))
    episodes = torch.from_numpy(windows).unflatten(0, (args.nb_episode, -1, N_WAY))
    accuracies = [identification.episode_accuracy(episode, n_shot=1) for episode in episodes]
    return [*results, 100 * float(np.mean(accuracies))]


def mfccs_of(features: FeatureIndex, wavs: Path) -> list[np.ndarray]:
    """Return the MFCCs (T, N_MFCC) of each utterance, frame by frame as in the features."""
    mfccs = []
    for row in range(len(features)):
        samples, _ = soundfile.read(wavs / f"{features.name(row)}.wav", dtype="float32")
        padded = np.pad(samples, (0, N_FFT + STEP * (len(features.utterance(row)) - 1) - len(samples)))
        mel = librosa.feature.melspectrogram(
            y=padded, sr=SAMPLE_RATE, n_fft=N_FFT, win_length=WINDOW, hop_length=STEP, n_mels=N_MELS, center=False
        )
        mfccs.append(librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=N_MFCC).T)
    return mfccs


def statistics_of(mfccs: list[np.ndarray], segments: Segments) -> np.ndarray:
    """Return mean and deviation over the frames of each of n segments: (n, 2 * N_MFCC), of length 1."""
    rows = []
    for row, start, length in zip(*segments, strict=True):
        window = mfccs[row][(start + np.arange(length)) % len(mfccs[row])]
        rows.append(np.concatenate([window.mean(axis=0), window.std(axis=0)]))
    return np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


def table(results: dict[str, list[float]]) -> str:
    """Return the results as a Markdown table."""
    headings = ["EER, whole utterances", "EER, 2 s", "EER, 1 s", f"{N_WAY}-way 1-shot identification"]
    lines = [f"| | {' | '.join(headings)} |", "| --- |" + " ---: |" * len(headings)]
    for name, result in results.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.1f} %' for value in result)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    console.run(main)

"""Run the complete pipeline on synthetic voices: corpus, features, training, evaluation, a table and a picture.

    make demo
    python demo.py

Takes at most five minutes on two cores. Everything is written to demo_data; a second run keeps corpus and features and
retrains. The exit status is 1 if the network trained here does not beat both untrained systems at every length.
"""

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import normalize

from configure import FRAMES_PER_SECOND, TREES, TRIALS_NAME
from dataset.index import FeatureIndex
from dataset.trials import read_trials
from evaluation.embedding import Scores, Segments, embed
from evaluation.metrics import verification_metrics
from evaluation.score_file import write_scores
from model.checkpoint import load_checkpoint, newest_checkpoint, run_folder
from model.encoder import Encoder
from recognition.recognizer import PRETRAINED
from system import console
from system.compute import inference
from system.console import UserError

NOTICE = "These voices are synthetic, made by eSpeak NG: the figures say nothing about human speech."
ROOT = Path("demo_data")
RUN, PICTURE = run_folder(str(ROOT / "saved_model"), 0), ROOT / "eer_by_length.png"
COMMON = ["--save_path", str(ROOT), "--seed", "100"]
# The paper's training (train.py's defaults) in short: ResNet-34, 100 speakers and a rate of 0.1 need more episodes.
BACKBONE = "resnet18"
TRAINING = ["--backbone", BACKBONE, "--nb_class_train", "10", "--lr", "0.01", "--max_epoch", "6"]
LENGTHS = ("full", "200", "100")  # of the test side, as in a score file: frames of 10 ms
NEXT_STEP = """The next step is real speech, LibriSpeech, without an account. Times are for two cores without AVX-512.

# 460 MB; a few minutes after the download
python dataprep.py --librispeech train-clean-5 dev-clean-2
# 7 hours of speech; one or two minutes
python feat_extract/feature_extraction.py
# 28 speakers; 75 minutes; EER not measured: expect more than the 9.7 % of 552 speakers in docs/evaluation.md
python train.py --nb_class_train 20 --max_epoch 20 --n_folder 1 --val_every 20 \\
    --val_trials data/trial_pair_Verification.txt"""


def main(argv: list[str]) -> None:
    """Run every stage and print the results; UserError if the training was of no use."""
    console.Parser(__doc__).parse_args(argv)  # --help is the only flag
    started = time.monotonic()
    print(NOTICE)
    run("dataprep.py", "--demo", *COMMON)
    run("feat_extract/feature_extraction.py", *COMMON[:2])
    shutil.rmtree(RUN, ignore_errors=True)  # of an earlier demo; other runs are the user's
    run("train.py", *TRAINING, "--model_path", str(RUN.parent), *COMMON)
    results = evaluate(FeatureIndex([ROOT / TREES["vox1_test"].feat]))
    run("plots.py", "length", *(str(ROOT / f"{name}.csv") for name in results), "-o", str(PICTURE))
    print(f"\n{table(results)}\n\n{PICTURE} shows the EERs with their 95 % intervals.\n{NOTICE}")
    print(f"{time.monotonic() - started:.0f} s in all\n\n{NEXT_STEP}")
    *untrained, trained, _ = (result[: len(LENGTHS)] for result in results.values())
    if any(eer >= min(others) for eer, *others in zip(trained, *untrained, strict=True)):
        raise UserError("the network trained here does not beat both untrained systems at every length")


def run(script: str, *flags: str) -> None:
    """Run one of the scripts as a user does; UserError if it fails."""
    print(f"\n$ python {shlex.join([script, *flags])}", flush=True)
    done = subprocess.run([sys.executable, str(Path(__file__).resolve().parent / script), *flags])
    if done.returncode:
        raise UserError(f"{script} ended with status {done.returncode}")


def evaluate(features: FeatureIndex) -> dict[str, list[float]]:
    """Return each system's EERs at LENGTHS and accuracy, in percent, and write its scores to a file.

    All tests are of the middle of each utterance, which is embedded once at each length.
    """
    rows, n_frames = np.arange(len(features)), features.n_frames(np.arange(len(features)))
    lengths = [n_frames if length == "full" else np.full_like(rows, int(length)) for length in LENGTHS]
    starts = [(n_frames - length) // 2 for length in lengths]
    segments = Segments(np.tile(rows, len(LENGTHS)), np.concatenate(starts), np.concatenate(lengths))
    torch.manual_seed(100)
    encoders = {
        "untrained network": Encoder(BACKBONE),
        "MFCC statistics": None,
        "trained here": newest_checkpoint(RUN)[1].encoder(),
        "bundled model": load_checkpoint(PRETRAINED).encoder(),
    }
    compute, results = inference(), {}
    for name, encoder in encoders.items():
        print(f"\n{name}: embedding {len(segments.row)} segments", flush=True)
        if encoder is None:
            embeddings = statistics(features, segments)
        else:
            embeddings = embed(encoder.for_inference(compute.device), features, segments, compute)
        by_length = normalize(embeddings, dim=1).unflatten(0, (len(LENGTHS), len(features)))
        results[name] = [*score(name, features, by_length), identify(by_length, len(features.speakers))]
    return results


def statistics(features: FeatureIndex, segments: Segments) -> Tensor:
    """Return mean and deviation over time of MFCCs 1 to 20, without the level, in each of n segments: (n, 40)."""
    import librosa  # takes seconds, which --help need not

    mfccs = []
    for row in range(len(features)):
        samples, rate = soundfile.read(ROOT / TREES["vox1_test"].wav / f"{features.name(row)}.wav", dtype="float32")
        mfccs.append(librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=21, n_fft=512, hop_length=rate // 100)[1:])
    parts = [mfccs[row][:, start : start + length] for row, start, length in zip(*segments, strict=True)]
    return torch.from_numpy(np.stack([np.append(part.mean(axis=1), part.std(axis=1)) for part in parts]))


def score(name: str, features: FeatureIndex, embeddings: Tensor) -> list[float]:
    """Write a system's scores of the trials and return its EER at each length; unit-length embeddings (3, U, D)."""
    trials, scores = read_trials(ROOT / TRIALS_NAME), []
    enrol, test = (features.rows(side) for side in (trials.enrol, trials.test))
    seconds = features.n_frames(np.arange(len(features))) / FRAMES_PER_SECOND
    for length, tested in zip(LENGTHS, embeddings, strict=True):
        cosines = (embeddings[0, enrol] * tested[test]).sum(dim=1).double().numpy()
        tested_seconds = seconds if length == "full" else np.full_like(seconds, int(length) / FRAMES_PER_SECOND)
        scores.append(Scores(length, seconds[enrol], tested_seconds[test], cosines, None, float(tested_seconds.sum())))
    speakers = np.array(features.speakers, object)
    write_scores(ROOT / f"{name}.csv", trials, scores, [speakers[features.speaker[side]] for side in (enrol, test)])
    return [100 * verification_metrics(at_length.plain, trials.label).eer for at_length in scores]


def identify(embeddings: Tensor, n_speakers: int) -> float:
    """Return the accuracy in percent with one full utterance enrolled and 1 s tested; unit-length embeddings (3, U, D).

    Each utterance of the speakers is enrolled once, and the others are tested.
    """
    full, *_, short = embeddings.unflatten(1, (n_speakers, -1))  # (speakers, utterances, D)
    nearest = torch.einsum("sud,tvd->svut", short, full).argmax(dim=-1)  # speaker found where v is enrolled, u tested
    correct = nearest == torch.arange(n_speakers)[:, None, None]
    return 100 * float(correct[:, ~torch.eye(full.shape[1], dtype=torch.bool)].double().mean())


def table(results: dict[str, list[float]]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| | EER, full | EER, 2 s | EER, 1 s | accuracy |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {name} | {' | '.join(f'{value:.1f} %' for value in result)} |" for name, result in results.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    console.run(main)

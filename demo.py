"""Run the complete pipeline on synthetic voices.

    make demo
    python demo.py

The steps are corpus, features, training, evaluation, a table and a figure. They
take at most five minutes on two cores. All files are written to demo_data; a
second run keeps corpus and features, and retrains. The exit status is 1 unless
the trained network has a lower EER than both untrained systems at every length.
"""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import normalize

from configure import TREES, TRIALS_NAME
from dataset.index import FeatureIndex
from dataset.trials import read_trials
from evaluation.embedding import Scores, Segments, embed
from evaluation.metrics import verification_metrics
from evaluation.score_file import write_scores
from model.checkpoint import load_checkpoint, newest_checkpoint, run_folder
from model.encoder import Encoder
from recognition.recognizer import BUNDLED_MODEL
from system import console
from system.compute import inference
from system.console import UserError

NOTICE = "These voices are synthetic, made by eSpeak NG: the error rates are not valid for human speech."
ROOT = Path("demo_data")
RUN, PICTURE = run_folder(str(ROOT / "saved_model"), 0), ROOT / "eer_by_length.png"
COMMON = ["--save_path", str(ROOT), "--seed", "100"]
# A short training. The defaults of train.py (ResNet-34, 100 speakers per episode, rate 0.1) need more episodes.
BACKBONE = "resnet18"
TRAINING = ["--backbone", BACKBONE, "--nb_class_train", "10", "--lr", "0.01", "--max_epoch", "9"]
LENGTHS = ("full", "200", "100")  # of the test segments, as in a score file: frames of 10 ms
NEXT_STEP = """Next, train on real speech: LibriSpeech needs no account. The times are for two cores without AVX-512.

# 460 MB; a few minutes after the download
python dataprep.py --save_path librispeech --librispeech train-clean-5 dev-clean-2
# 7 hours of speech; one or two minutes
python feat_extract/feature_extraction.py --save_path librispeech
# 28 speakers; 75 minutes; expect a higher EER (not measured) than with the 552 speakers of docs/evaluation.md
python train.py --save_path librispeech --nb_class_train 20 --max_epoch 20 --n_folder 1 --val_every 20 \\
    --val_trials librispeech/trial_pair_Verification.txt"""


def main(argv: list[str]) -> None:
    """Run every step and print the results; UserError unless the training reduced the EER."""
    console.Parser(__doc__).parse_args(argv)  # the only flag is --help
    started = time.monotonic()
    print(NOTICE)
    run("dataprep.py", "--demo", *COMMON)
    run("feat_extract/feature_extraction.py", *COMMON[:2])
    shutil.rmtree(RUN, ignore_errors=True)  # of an earlier demo; other runs are kept
    run("train.py", *TRAINING, "--model_path", str(RUN.parent), *COMMON)
    results = evaluate()
    run("plots.py", "length", *(str(ROOT / f"{name}.csv") for name in results), "-o", str(PICTURE))
    print("\n| | EER, full | EER, 2 s | EER, 1 s | accuracy |\n| --- | ---: | ---: | ---: | ---: |")
    for name, percentages in results.items():
        print(f"| {name} | {' | '.join(f'{value:.1f} %' for value in percentages)} |")
    print(f"\n{PICTURE} shows the EERs with their 95 % intervals.\n{NOTICE}")
    print(f"{time.monotonic() - started:.0f} s in all\n\n{NEXT_STEP}")
    *untrained, trained, _ = (percentages[: len(LENGTHS)] for percentages in results.values())
    if any(eer >= min(others) for eer, *others in zip(trained, *untrained, strict=True)):
        raise UserError("the network trained here does not beat both untrained systems at every length")


def run(script: str, *flags: str) -> None:
    """Run one of the scripts as a user does; UserError if it fails."""
    print(f"\n$ python {shlex.join([script, *flags])}", flush=True)
    status = subprocess.run([sys.executable, str(Path(__file__).parent / script), *flags]).returncode
    if status:
        raise UserError(f"{script} failed with status {status}")


def systems(features: FeatureIndex) -> dict[str, Callable[[Segments], Tensor]]:
    """Return the systems by name, as functions of n segments that return their embeddings (n, D)."""
    compute = inference()

    def network(encoder: Encoder) -> Callable[[Segments], Tensor]:
        return lambda segments: embed(encoder.for_inference(compute.device), features, segments, compute)

    torch.manual_seed(100)
    return {
        "untrained network": network(Encoder(BACKBONE)),
        "MFCC statistics": lambda segments: mfcc_statistics(features, segments),
        "trained here": network(newest_checkpoint(RUN)[1].encoder()),
        "bundled model": network(load_checkpoint(BUNDLED_MODEL).encoder()),
    }


def evaluate() -> dict[str, list[float]]:
    """Write the score file of each system; return its EER in percent at each length, and its accuracy in percent.

    All systems have the same trials and test segments. A test segment is the middle of an utterance, and is embedded
    once for all trials.
    """
    features = FeatureIndex([ROOT / TREES["vox1_test"].feat])
    trials, rows, results = read_trials(ROOT / TRIALS_NAME), np.arange(len(features)), {}
    enrol, test = features.rows(trials.enrol), features.rows(trials.test)
    speakers = [np.array(features.speakers, object)[features.speaker[side]] for side in (enrol, test)]
    n_frames, segments = features.n_frames(rows), []
    for length in LENGTHS:
        lengths = n_frames if length == "full" else np.full_like(rows, int(length))
        segments.append(Segments(rows, (n_frames - lengths) // 2, lengths))
    seconds = [of_length.seconds(features) for of_length in segments]
    for name, system in systems(features).items():
        print(f"\n{name}: embedding {len(LENGTHS) * len(rows)} segments", flush=True)
        embeddings, scores = [normalize(system(of_length), dim=1) for of_length in segments], []
        for length, tested, of_length in zip(LENGTHS, embeddings, seconds, strict=True):
            cosines = (embeddings[0][enrol] * tested[test]).sum(dim=1).double().numpy()
            scores.append(Scores(length, seconds[0][enrol], of_length[test], cosines, None, float(of_length.sum())))
        write_scores(ROOT / f"{name}.csv", trials, scores, speakers)
        eers = [100 * verification_metrics(of_length.plain, trials.label).eer for of_length in scores]
        results[name] = [*eers, identify(torch.stack(embeddings), len(features.speakers))]
    return results


def mfcc_statistics(features: FeatureIndex, segments: Segments) -> Tensor:
    """Return mean and standard deviation over time of MFCCs 1 to 20 of n segments, (n, 40); MFCC 0 is the level."""
    import librosa  # takes seconds, so not for --help

    vectors = []
    for row, start, length in zip(*segments, strict=True):
        samples, rate = soundfile.read(ROOT / TREES["vox1_test"].wav / f"{features.name(row)}.wav", dtype="float32")
        mfcc = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=21, n_fft=512, hop_length=rate // 100)
        part = mfcc[1:, start : start + length]
        vectors.append(np.append(part.mean(axis=1), part.std(axis=1)))
    return torch.from_numpy(np.stack(vectors))


def identify(embeddings: Tensor, n_speakers: int) -> float:
    """Return the identification accuracy in percent, with one full utterance per speaker enrolled and tests of 1 s.

    `embeddings` (3, U, D), of unit length, are those of U utterances at each of LENGTHS. The first utterance of each
    speaker is enrolled and the others are tested, then the second one is enrolled, and so on.
    """
    full, *_, short = embeddings.unflatten(1, (n_speakers, -1))  # (speakers, utterances, D)
    nearest = torch.einsum("sud,tvd->svut", short, full).argmax(dim=-1)  # if utterance v is enrolled and u is tested
    correct = nearest == torch.arange(n_speakers)[:, None, None]
    return 100 * float(correct[:, ~torch.eye(full.shape[1], dtype=torch.bool)].double().mean())


if __name__ == "__main__":
    console.run(main)

"""What the evaluators tell: lines on standard output, --save_scores and --json."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas

from configure import FRAMES_PER_SECOND
from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation.embedding import Scores, Segments, join_segments, unique_segments
from system.files import replacing


def say_left_out(features: FeatureIndex, unseen: np.ndarray) -> None:
    """Say in one line how many speakers are left out for having been trained on; `unseen` (S,) are the others."""
    n_seen = len(features.speakers) - len(unseen)
    print(f"speakers: {len(unseen):,} not trained on; {n_seen:,} that were trained on are left out")


def say_scored(features: FeatureIndex, trials: Trials, sides: Sequence[Segments]) -> None:
    """Say in one line what is scored: trials with one enrolment side and one test side or several."""
    segments, _ = unique_segments(join_segments(sides))
    n_speakers = len(np.unique(features.speaker[segments.row]))
    targets = f"{trials.label.sum():,} target" if trials.labelled else "no labels"
    each = f" at each of {len(sides) - 1} test lengths" if len(sides) > 2 else ""
    print(
        f"scored: {len(trials.enrol):,} trials ({targets}){each} of {n_speakers:,} speakers, "
        f"{len(segments.row):,} segments, {segments.length.sum() / FRAMES_PER_SECOND:,.0f} s of audio"
    )


def say_rates(results: Sequence[dict]) -> None:
    """Print a line for the error rates at each test length, and one for those after as-norm where there are any."""
    for rates in results:
        prefix = f"test {rates['length']}: " if len(results) > 1 else ""
        print(f"{prefix}{_in_words(rates)}")
        if "as_norm" in rates:
            print(f"{prefix}as-norm {_in_words(rates['as_norm'])}")


def _in_words(rates: dict[str, float]) -> str:
    return (
        f"EER {rates['eer']:.2f} % (95 % interval {rates['eer_low']:.2f} to {rates['eer_high']:.2f} %, speakers "
        f"resampled), interpolated {rates['eer_interpolated']:.2f} %, threshold {rates['threshold']:.4f}, "
        f"minDCF(0.01) {rates['min_dcf_0.01']:.4f}, minDCF(0.001) {rates['min_dcf_0.001']:.4f}"
    )


def write_scores(path: Path, trials: Trials, scores: Sequence[Scores]) -> None:
    """Write a row for each trial and test length: label, enrol, test, length, score, score_as_norm.

    There is no label where the list has none, and no length where there is one only.
    """
    tables = []
    for of_length in scores:
        columns: dict[str, np.ndarray | str] = {"label": trials.label.astype(int)} if trials.labelled else {}
        columns |= {"enrol": trials.enrol, "test": trials.test}
        columns |= {"length": of_length.length} if len(scores) > 1 else {}
        columns |= {"score": of_length.plain}
        columns |= {"score_as_norm": of_length.normalised} if of_length.normalised is not None else {}
        tables.append(pandas.DataFrame(columns))
    with replacing(path) as temporary:
        pandas.concat(tables).to_csv(temporary, index=False, errors="surrogateescape")


def say_json(result: dict, args: argparse.Namespace) -> None:
    """With --json, end standard output with the result as one line."""
    if args.json:
        print(json.dumps(result))

"""What the three evaluators share: their common flags, choice of checkpoint and data, and the verification report."""
import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

import console
import runtime
from checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, run_folder
from configure import EVALUATION_TREES, FRAMES_PER_SECOND, TRAINING_TREE, TREES, save_root
from dataset.index import FeatureIndex
from dataset.trials import Trials
from files import replacing
from metrics import eer_interval, verification_metrics
from model.encoder import Encoder
from verification import Segments, score, unique_segments


class Setting(NamedTuple):
    """A trained network and the data to evaluate it on."""

    checkpoint: Checkpoint
    path: Path  # of the checkpoint
    encoder: Encoder
    features: FeatureIndex
    unseen: np.ndarray  # (S,) those speakers of the features that the network was not trained on
    compute: runtime.Compute


def parser(description: str | None) -> console.Parser:
    """Return a parser with the flags that all evaluators have."""
    common = console.Parser(description)
    add = common.add_argument
    add("--n_folder", type=console.integer(0), default=0, help="number of the run's folder, baseline_NNN (0)")
    add("--cp_num", type=console.integer(0), help="epoch of the checkpoint (the newest)")
    add("--checkpoint", type=Path, metavar="FILE", help="a checkpoint anywhere, in place of --n_folder and --cp_num")
    add("--data_type", choices=sorted(TRAINING_TREE), default="vox2", help="what a release's checkpoint learnt from")
    add("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    add("--model_path", default="saved_model", help="folder of all runs (saved_model)")
    add("--seed", type=console.integer(0), default=100, help="of whatever is drawn (100)")
    add("--json", action="store_true", help="end with the result as one line of JSON")
    runtime.add_arguments(common, precision="fp32")
    return common


def set_up(args: argparse.Namespace) -> Setting:
    """Load the checkpoint and the index of VoxCeleb1's features, and find the speakers it was not trained on."""
    compute = runtime.set_up(args)
    path, checkpoint = (
        (args.checkpoint, load_checkpoint(args.checkpoint))
        if args.checkpoint
        else newest_checkpoint(run_folder(args.model_path, args.n_folder), args.cp_num)
    )
    print(f"checkpoint: {path}, after epoch {checkpoint.epoch}, {checkpoint.backbone}")
    root, trees = save_root(args.save_path), EVALUATION_TREES
    features = FeatureIndex([root / TREES[tree].feat for tree in trees])
    trained_on = set(checkpoint.speakers)
    if not trained_on and args.data_type == "vox1":  # a release's file does not list its speakers
        trained_on = speakers_of(root / TREES[TRAINING_TREE["vox1"]].feat)
    unseen = np.array([s for s, name in enumerate(features.speakers) if name not in trained_on], np.int64)
    return Setting(checkpoint, path, checkpoint.encoder(), features, unseen, compute)


def speakers_of(tree: Path) -> set[str]:
    """Return the names of the speakers whose folders a feature tree holds."""
    return {folder.name for folder in tree.iterdir() if folder.is_dir()} if tree.is_dir() else set()


def of_seen_speakers(trials: Trials, setting: Setting) -> np.ndarray:
    """Return which trials (n,) bool involve a speaker that the network was trained on."""
    sides = (setting.features.speaker[setting.features.rows(side)] for side in (trials.enrol, trials.test))
    return ~np.logical_and(*(np.isin(side, setting.unseen) for side in sides))


def say_left_out(setting: Setting) -> None:
    """Say in one line which speakers are left out for having been trained on."""
    n_seen = len(setting.features.speakers) - len(setting.unseen)
    print(f"speakers: {len(setting.unseen):,} not trained on; {n_seen:,} that were trained on are left out")


def verify(setting: Setting, trials: Trials, enrol: Segments, test: Segments, args: argparse.Namespace) -> None:
    """Score trials of enrolment and test segments (n,), print the result, write --save_scores and --json."""
    scores = score(setting.encoder, setting.features, enrol, test, setting.compute)
    if args.save_scores:
        table = pandas.DataFrame(
            {"label": trials.label.astype(int), "enrol": trials.enrol, "test": trials.test, "score": scores}
        )
        with replacing(args.save_scores) as temporary:
            table.to_csv(temporary, index=False)
    rates = verification_metrics(scores, trials.label)
    speakers = [setting.features.speaker[side.row] for side in (enrol, test)]
    low, high = eer_interval(scores, trials.label, *speakers)
    both = Segments(*(np.concatenate(columns) for columns in zip(enrol, test, strict=True)))
    segments, _ = unique_segments(both)
    result = {
        "eer": 100 * rates.eer,
        "eer_interpolated": 100 * rates.eer_interpolated,
        "eer_low": 100 * low,
        "eer_high": 100 * high,
        "threshold": rates.threshold,
        "min_dcf_0.01": rates.min_dcf_01,
        "min_dcf_0.001": rates.min_dcf_001,
        "n_trials": len(scores),
        "n_target": int(trials.label.sum()),
        "n_speakers": len(np.unique(np.concatenate(speakers))),
        "seconds": float(segments.length.sum() / FRAMES_PER_SECOND),
    }
    print(
        f"scored: {result['n_trials']:,} trials ({result['n_target']:,} target) of {result['n_speakers']:,} speakers, "
        f"{len(segments.row):,} segments, {result['seconds']:,.0f} s of audio"
    )
    print(
        f"EER {result['eer']:.2f} % (95 % interval {result['eer_low']:.2f} to {result['eer_high']:.2f} %, speakers "
        f"resampled), interpolated {result['eer_interpolated']:.2f} %, threshold {result['threshold']:.4f}, "
        f"minDCF(0.01) {result['min_dcf_0.01']:.4f}, minDCF(0.001) {result['min_dcf_0.001']:.4f}"
    )
    say_json(result, args)


def say_json(result: dict, args: argparse.Namespace) -> None:
    """With --json, end standard output with the result as one line."""
    if args.json:
        print(json.dumps(result))

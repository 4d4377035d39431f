"""What the three evaluators share: their common flags, choice of checkpoint and data, and the verification report."""
import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

import console
import ranks
import runtime
from checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, run_folder
from configure import EVALUATION_TREES, FRAMES_PER_SECOND, TRAINING_TREE, TREES, save_root
from console import UsageError
from dataset.index import FeatureIndex
from dataset.trials import Trials
from files import replacing
from metrics import eer_interval, verification_metrics
from model.encoder import Encoder
from normalisation import AdaptiveNorm, cohort_of
from verification import Segments, cosine, embed_once, join_segments, unique_segments


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
    add_checkpoint_arguments(common)
    add = common.add_argument
    add("--data_type", choices=sorted(TRAINING_TREE), default="vox2", help="what a release's checkpoint learnt from")
    add("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    add("--seed", type=console.integer(0), default=100, help="of whatever is drawn (100)")
    add("--json", action="store_true", help="end with the result as one line of JSON")
    runtime.add_arguments(common, precision="fp32")
    return common


def add_checkpoint_arguments(common: argparse.ArgumentParser) -> None:
    """Add the flags that name a checkpoint."""
    add = common.add_argument
    add("--n_folder", type=console.integer(0), default=0, help="number of the run's folder, baseline_NNN (0)")
    add("--cp_num", type=console.integer(0), help="epoch of the checkpoint (the newest)")
    add("--checkpoint", type=Path, metavar="FILE", help="a checkpoint anywhere, in place of --n_folder and --cp_num")
    add("--model_path", default="saved_model", help="folder of all runs (saved_model)")


def find_checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Return the checkpoint that the flags name, and its file."""
    if args.checkpoint:
        return args.checkpoint, load_checkpoint(args.checkpoint)
    return newest_checkpoint(run_folder(args.model_path, args.n_folder), args.cp_num, within_epoch=False)


def set_up(args: argparse.Namespace) -> Setting:
    """Load the checkpoint and the index of VoxCeleb1's features, and find the speakers it was not trained on."""
    compute = runtime.set_up(args)
    path, checkpoint = ranks.from_first(lambda: find_checkpoint(args))  # the newest may change any moment
    print(f"checkpoint: {path}, after epoch {checkpoint.epoch}, {checkpoint.backbone}")
    root, trees = save_root(args.save_path), EVALUATION_TREES
    features = FeatureIndex([root / TREES[tree].feat for tree in trees])
    trained_on = set(checkpoint.speakers)
    if not trained_on and args.data_type == "vox1":  # a release's file does not list its speakers
        trained_on = speakers_of(root / TREES[TRAINING_TREE["vox1"]].feat)
    unseen = np.array([s for s, name in enumerate(features.speakers) if name not in trained_on], np.int64)
    return Setting(checkpoint, path, checkpoint.encoder().folded(), features, unseen, compute)


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


def add_trial_arguments(common: argparse.ArgumentParser) -> None:
    """Add the flags of the two evaluators that score trials."""
    add = common.add_argument
    add("--as_norm", type=console.integer(2), metavar="N", help="normalise by the N nearest training speakers, too")
    add("--save_scores", type=Path, metavar="FILE", help="write label,enrol,test,score as CSV")


def verify(
    setting: Setting, trials: Trials, enrol: Segments, tests: dict[str, Segments], args: argparse.Namespace
) -> tuple[dict, dict[str, np.ndarray]]:
    """Score n trials with one test side or several, print the result, write --save_scores and --json.

    Returns:
        What --json tells, and the scores (n,) of each length.

    Args:
        setting: the network and its data.
        trials: labels and names.
        enrol: (n,) enrolment segments.
        tests: (n,) test segments by their length in words; each segment is embedded once for all.
        args: the flags.
    """
    sides = [enrol, *tests.values()]
    embeddings, (left, *rights) = embed_once(setting.encoder, setting.features, sides, setting.compute)
    norm = _adaptive_norm(setting, args) if args.as_norm else None
    _say_scored(setting, trials, sides)
    several, results, tables, plain = len(tests) > 1, [], [], {}
    for (length, test), right in zip(tests.items(), rights, strict=True):
        scores = {"score": cosine(embeddings, left, right)}
        plain[length] = scores["score"]
        if norm:
            scores["score_as_norm"] = norm.scores(embeddings, left, right)
        mark = {"length": length} if several else {}
        tables.append({"label": trials.label.astype(int), "enrol": trials.enrol, "test": trials.test} | mark | scores)
        results.append(mark | _report(setting, trials, (enrol, test), scores, f"test {length}: " if several else ""))
    if args.save_scores and ranks.is_first():
        with replacing(args.save_scores) as temporary:
            pandas.concat([pandas.DataFrame(table) for table in tables]).to_csv(temporary, index=False)
    result = {"lengths": results} if several else results[0]
    say_json(result, args)
    return result, plain


def _adaptive_norm(setting: Setting, args: argparse.Namespace) -> AdaptiveNorm:
    """Return the as-norm over the speakers that the network was trained on."""
    tree = save_root(args.save_path) / TREES[TRAINING_TREE[setting.checkpoint.data_type or args.data_type]].feat
    features = FeatureIndex([tree])
    trained_on = set(setting.checkpoint.speakers) or set(features.speakers)
    speakers = np.array([s for s, name in enumerate(features.speakers) if name in trained_on], np.int64)
    if len(speakers) < args.as_norm:
        raise UsageError(f"--as_norm {args.as_norm}: {tree} holds {len(speakers)} of the training speakers")
    print(f"as-norm: the {args.as_norm:,} nearest of {len(speakers):,} training speakers")
    return AdaptiveNorm(cohort_of(setting.encoder, features, speakers, setting.compute), args.as_norm)


def _say_scored(setting: Setting, trials: Trials, sides: list[Segments]) -> None:
    """Say in one line what is scored."""
    segments, _ = unique_segments(join_segments(sides))
    n_speakers = len(np.unique(setting.features.speaker[segments.row]))
    each = f" at each of {len(sides) - 1} test lengths" if len(sides) > 2 else ""
    print(
        f"scored: {len(trials.label):,} trials ({trials.label.sum():,} target){each} of {n_speakers:,} speakers, "
        f"{len(segments.row):,} segments, {segments.length.sum() / FRAMES_PER_SECOND:,.0f} s of audio"
    )


def _report(
    setting: Setting,
    trials: Trials,
    sides: tuple[Segments, Segments],
    scores: dict[str, np.ndarray],
    prefix: str,
) -> dict:
    """Print a line for the plain and, if there, the normalised scores (n,); return what --json tells of them."""
    speakers = [setting.features.speaker[side.row] for side in sides]
    segments, _ = unique_segments(join_segments(sides))
    plain, *normalised = (_rates(of_kind, trials.label, speakers) for of_kind in scores.values())
    print(f"{prefix}{_in_words(plain)}")
    result = plain | {
        "n_trials": len(trials.label),
        "n_target": int(trials.label.sum()),
        "n_speakers": len(np.unique(np.concatenate(speakers))),
        "seconds": float(segments.length.sum() / FRAMES_PER_SECOND),
    }
    for rates in normalised:
        print(f"{prefix}as-norm {_in_words(rates)}")
        result["as_norm"] = rates
    return result


def _rates(scores: np.ndarray, label: np.ndarray, speakers: list[np.ndarray]) -> dict[str, float]:
    """Return the error rates of scores (n,), the EERs in percent, as --json names them."""
    rates = verification_metrics(scores, label)
    low, high = eer_interval(scores, label, *speakers)
    return {
        "eer": 100 * rates.eer,
        "eer_interpolated": 100 * rates.eer_interpolated,
        "eer_low": 100 * low,
        "eer_high": 100 * high,
        "threshold": rates.threshold,
        "min_dcf_0.01": rates.min_dcf_01,
        "min_dcf_0.001": rates.min_dcf_001,
    }


def _in_words(rates: dict[str, float]) -> str:
    return (
        f"EER {rates['eer']:.2f} % (95 % interval {rates['eer_low']:.2f} to {rates['eer_high']:.2f} %, speakers "
        f"resampled), interpolated {rates['eer_interpolated']:.2f} %, threshold {rates['threshold']:.4f}, "
        f"minDCF(0.01) {rates['min_dcf_0.01']:.4f}, minDCF(0.001) {rates['min_dcf_0.001']:.4f}"
    )


def say_json(result: dict, args: argparse.Namespace) -> None:
    """With --json, end standard output with the result as one line."""
    if args.json:
        print(json.dumps(result))

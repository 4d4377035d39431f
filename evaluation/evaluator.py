"""What the three evaluators share: their common flags, choice of checkpoint and data, and scoring trials."""

import argparse
import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from configure import EVALUATION_TREES, FRAMES_PER_SECOND, TRAINING_TREE, TREES, save_root
from dataset.index import FeatureIndex
from dataset.trials import Trials, read_enrolment, read_trials
from evaluation import report
from evaluation.calibration import calibration_path, fit, load_calibration, save_calibration, split_half_llr
from evaluation.embedding import Scores, Segments, cosine, embed, embed_once, unique_segments
from evaluation.noise import NoisyTests
from evaluation.normalisation import adaptive_norm
from evaluation.score_file import read_compared, write_scores
from evaluation.speech import SpeechIndex
from model.checkpoint import MODEL_PATH, Checkpoint, load_checkpoint, newest_checkpoint, run_folder
from model.encoder import Encoder
from system import console, ranks
from system.compute import Compute, add_compute_arguments, choose_compute
from system.console import UsageError, UserError
from system.files import sha256

FULL = "full"  # as a test length: the whole utterance


class Setting(NamedTuple):
    """A trained network and the data to evaluate it on."""

    checkpoint: Checkpoint
    path: Path  # of the checkpoint
    encoder: Encoder
    features: FeatureIndex
    unseen: np.ndarray  # (S,) those speakers of the features that the network was not trained on
    compute: Compute


def parser(description: str | None) -> console.Parser:
    """Return a parser with the flags that all evaluators have."""
    common = console.Parser(description)
    add_checkpoint_arguments(common)
    add = common.add_argument
    add("--data_type", choices=sorted(TRAINING_TREE), help="what a release's checkpoint learnt from (vox2)")
    add("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    add("--seed", type=console.integer(0), default=100, help="of whatever is drawn (100)")
    add("--json", action="store_true", help="print the result as one line of JSON and all else to standard error")
    add_compute_arguments(common, precision="fp32")
    return common


def add_checkpoint_arguments(common: console.Parser) -> None:
    """Add the flags that name a checkpoint."""
    add = common.add_argument
    add("--n_folder", type=console.integer(0), default=0, help="number of the run's folder, baseline_NNN (0)")
    add("--cp_num", type=console.integer(0), help="epoch of the checkpoint (the newest)")
    add("--checkpoint", type=Path, metavar="FILE", help="a checkpoint anywhere, in place of --n_folder and --cp_num")
    add("--model_path", default=MODEL_PATH, help=f"folder of all runs ({MODEL_PATH})")
    for flag in ("n_folder", "cp_num", "model_path"):
        common.works_if(flag, lambda args: not args.checkpoint, "with --checkpoint")


def find_checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Return the checkpoint that the flags name, and its file."""
    if args.checkpoint:
        return args.checkpoint, load_checkpoint(args.checkpoint)
    return newest_checkpoint(run_folder(args.model_path, args.n_folder), args.cp_num, within_epoch=False)


def set_up(args: argparse.Namespace) -> Setting:
    """Load the checkpoint and the index of VoxCeleb1's features, and find the speakers it was not trained on.

    If args.trim_silence is true, the utterances have no pauses.
    """
    compute = choose_compute(args)
    path, checkpoint = ranks.broadcast_object(lambda: find_checkpoint(args))  # a training may write a newer one
    if args.data_type and checkpoint.data_type not in ("", args.data_type):
        raise UsageError(f"--data_type {args.data_type}: {path} was trained on {checkpoint.data_type}; omit the flag")
    print(f"checkpoint: {path}, after epoch {checkpoint.epoch}, {checkpoint.backbone}")
    root = save_root(args.save_path)
    trees = [root / TREES[tree].feat for tree in EVALUATION_TREES]
    features = SpeechIndex(trees) if args.trim_silence else FeatureIndex(trees)
    if args.trim_silence:
        print("pauses are cut out of the utterances, as recognize.py does")
    trained_on = set(checkpoint.speakers)
    if not trained_on and args.data_type == "vox1":  # a release's file does not list its speakers
        trained_on = features.speakers_of(root / TREES[TRAINING_TREE["vox1"]].feat)
    unseen = unseen_speakers(features, trained_on)
    return Setting(checkpoint, path, checkpoint.encoder().for_inference(compute.device), features, unseen, compute)


def unseen_speakers(features: FeatureIndex, trained_on: Collection[str]) -> np.ndarray:
    """Return those of the features' speakers (S,) int64 that are not among the names `trained_on`."""
    names = set(trained_on)
    return np.array([s for s, name in enumerate(features.speakers) if name not in names], np.int64)


class Task(NamedTuple):
    """Trials to score and the models that their speakers are enrolled as, of one utterance or of several each."""

    trials: Trials
    enrolled: Segments  # (e,) of all models
    model: np.ndarray  # (e,) the model of each segment; models are numbered from 0 and their segments are side by side
    of_trial: np.ndarray  # (n,) the model of each trial
    test: np.ndarray  # (n,) rows of the test utterances

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows (n,) of enrolment and test; a model counts as its first utterance."""
        return self.enrolled.row[np.searchsorted(self.model, self.of_trial)], self.test

    @property
    def enrol_seconds(self) -> np.ndarray:
        """The seconds (n,) of the utterances that the model of each trial is enrolled by."""
        return np.bincount(self.model, self.enrolled.length)[self.of_trial] / FRAMES_PER_SECOND

    def where(self, kept: np.ndarray) -> "Task":
        """Return the trials that `kept` (n,) bool is true for; models that no trial is left of stay enrolled."""
        return self._replace(trials=self.trials.where(kept), of_trial=self.of_trial[kept], test=self.test[kept])


def read_lists(path: Path, args: argparse.Namespace) -> tuple[Trials, dict[str, list[str]] | None]:
    """Read a trial list and, with --enroll, the models on its left side; without labels it needs --save_scores.

    Says how many trials are repetitions; each counts as it is listed.
    """
    trials = read_trials(path, blind=True)
    if n_repeated := len(trials.enrol) - len(set(zip(*(trials if trials.labelled else trials[1:]), strict=True))):
        console.warn(f"{path}: {n_repeated:,} of the {len(trials.enrol):,} trials are repetitions; each counts")
    if (args.calibrate or args.compare) and not trials.labelled:
        raise UsageError(f"{path}: its trials have no labels, so they calibrate and compare nothing")
    if not (trials.labelled or args.save_scores):
        raise UsageError(f"{path}: its trials have no labels, so no error rate; write the scores by --save_scores FILE")
    return trials, read_enrolment(args.enroll) if args.enroll else None


def task_of(setting: Setting, trials: Trials, models: dict[str, list[str]] | None) -> Task:
    """Find the utterances of trials; their left sides are models of several utterances, or utterances by themselves.

    UserError naming a model that is not among them.
    """
    features, models = setting.features, models or {name: [name] for name in trials.enrol}
    used = sorted(set(trials.enrol))
    if lacking := [name for name in used if name not in models]:
        missing = f"{len(lacking):,} of {len(used):,} models are missing"
        raise UserError(f"{lacking[0]}: not in the enrolment list ({missing})")
    number = {name: at for at, name in enumerate(used)}
    enrolled = Segments.whole(features, features.rows([utterance for name in used for utterance in models[name]]))
    model = np.repeat(np.arange(len(used)), [len(models[name]) for name in used])
    of_trial = np.array([number[name] for name in trials.enrol])
    return Task(trials, enrolled, model, of_trial, features.rows(trials.test))


def of_seen_speakers(sides: tuple[np.ndarray, np.ndarray], features: FeatureIndex, unseen: np.ndarray) -> np.ndarray:
    """Return which trials (n,) bool have a speaker on either side that is not among the `unseen` (S,).

    The sides are the rows (n,) of enrolment and test in the features.
    """
    return ~np.logical_and(*(np.isin(features.speaker[rows], unseen) for rows in sides))


def warn_of_seen_speakers(sides: tuple[np.ndarray, np.ndarray], features: FeatureIndex, unseen: np.ndarray) -> None:
    """Warn if trials are `of_seen_speakers`: their error rate says little about other speakers."""
    if n_seen := of_seen_speakers(sides, features, unseen).sum():
        console.warn(f"{n_seen:,} of the trials are of speakers that the network was trained on")


def add_trial_arguments(common: console.Parser) -> None:
    """Add the flags of the two evaluators that score trials."""
    add = common.add_argument
    add("--enroll", type=Path, metavar="FILE", help="lines MODEL UTTERANCE...: the trials' left sides are such models")
    add("--as_norm", type=console.integer(2), metavar="N", help="normalise by the N nearest training speakers, too")
    add(
        "--save_scores",
        type=Path,
        metavar="FILE",
        help="write label, score, durations and speakers of each trial as CSV",
    )
    add("--compare", type=Path, metavar="FILE", help="another system's --save_scores: tell the EERs' difference")
    add("--calibrate", type=console.boolean, default=False, help="fit log-likelihood ratios and keep them (False)")
    add(
        "--trim_silence",
        type=console.boolean,
        help="cut pauses out of the utterances, as recognize.py does (False; True when calibrating)",
    )


def check_trial_arguments(args: argparse.Namespace) -> None:
    """Set --trim_silence if it is not given; UsageError for flags that contradict each other."""
    if args.calibrate and args.trim_silence is False:
        raise UsageError(
            "--calibrate True fits speech without pauses, as recognize.py decides; leave out --trim_silence"
        )
    args.trim_silence = bool(args.trim_silence or args.calibrate)


def verify(
    setting: Setting,
    task: Task,
    tests: dict[str, Segments],
    args: argparse.Namespace,
    publish: Callable[[dict], None],
    noisy: Sequence[NoisyTests] = (),
) -> None:
    """Score n trials, tell the error rates, write --save_scores, `publish` the result as --json names it.

    The test segments (n,) of each length, by its name in words, are heard as they are or, one after the other, in each
    of `noisy`. UserError if --calibrate is asked for and the trials support no calibration; their scores are written
    all the same.
    """
    if args.compare and args.save_scores and args.compare.resolve() == args.save_scores.resolve():
        raise UsageError(f"--save_scores {args.save_scores}: would replace the scores that --compare reads")
    if args.calibrate and (n_seen := of_seen_speakers(task.sides, setting.features, setting.unseen).sum()):
        raise UserError(f"--calibrate True: {n_seen:,} of the trials are of speakers that the network was trained on")
    compared = []
    if args.compare:
        heard = itertools.product(tests, [condition.name for condition in noisy] or [""])
        at_each = [(length, snr, tests[length].seconds(setting.features)) for length, snr in heard]
        compared = read_compared(args.compare, task.trials, task.enrol_seconds, at_each)
    norm = None
    if args.as_norm:
        data_type = setting.checkpoint.data_type or args.data_type or "vox2"
        tree = save_root(args.save_path) / TREES[TRAINING_TREE[data_type]].feat
        trained_on = set(setting.checkpoint.speakers)
        norm = adaptive_norm(setting.encoder, tree, trained_on, args.as_norm, setting.compute, type(setting.features))
    scores = score_task(setting, task, tests, norm, noisy)
    report.say_scored(setting.features, task.trials, [task.enrolled, *tests.values()])
    labels, speakers = task.trials.label, [setting.features.speaker[rows] for rows in task.sides]
    try:
        scores = with_llr(scores, labels, speakers, setting.path, args.calibrate)
    finally:
        if task.trials.labelled:
            result = report.rates_of_all(scores, labels, speakers, compared)
            report.say_rates(result)
        else:
            result = {"n_trials": len(task.test), "n_speakers": len(np.unique(speakers))}
        if args.save_scores and ranks.is_first():
            names = np.array(setting.features.speakers, object)
            write_scores(args.save_scores, task.trials, scores, [names[of_side] for of_side in speakers])
        publish(result)


def with_llr(
    scores: list[Scores], labels: np.ndarray, speakers: Sequence[np.ndarray], checkpoint: Path, calibrating: bool
) -> list[Scores]:
    """Return the scores of n trials at each test length with LLRs if there is a calibration, and say what it covers.

    It is the one kept beside the checkpoint file; or, when calibrating, it is fitted on the trials of all lengths and
    speakers, and kept there, while the LLRs are those of held-out speakers. UserError if the trials support none.
    Labels (n,) are true for target trials, `speakers` are the numbers (n,) of the speakers of either side.
    """
    if calibrating:
        of_lengths = ((s.plain, labels, s.enrol_seconds, s.test_seconds, *speakers) for s in scores)
        trials = [np.concatenate(columns) for columns in zip(*of_lengths, strict=True)]
        ratios = np.split(split_half_llr(*trials), len(scores))
        calibration = fit(*trials[:4])
        if ranks.is_first():
            save_calibration(checkpoint, calibration)
        report.say_held_out(ratios)
    else:
        kept = load_calibration(checkpoint, sha256(checkpoint))
        if kept is None:
            return scores
        calibration, ratios = kept, [kept.llr(s.plain, s.enrol_seconds, s.test_seconds) for s in scores]
    report.say_calibration(calibration, calibration_path(checkpoint))
    return [s._replace(llr=ratio) for s, ratio in zip(scores, ratios, strict=True)]


def score_task(
    setting: Setting, task: Task, tests: dict[str, Segments], norm: Callable | None, noisy: Sequence[NoisyTests]
) -> list[Scores]:
    """Return the scores of n trials at each length, in each noise if any is given; `norm` normalises some (n,).

    A segment is embedded once for all trials, but in noise, of which each trial has its own.
    """
    features, sides = setting.features, [task.enrolled, *(() if noisy else tests.values())]
    embeddings, (enrolled, *rights) = embed_once(setting.encoder, features, sides, setting.compute)
    left, enrol_seconds = len(embeddings) + torch.from_numpy(task.of_trial), task.enrol_seconds
    embeddings = torch.cat([embeddings, _means(embeddings[enrolled], task.model)])

    def scores(length: str, embeddings: torch.Tensor, right: torch.Tensor, snr: str = "") -> Scores:
        return Scores(
            length,
            enrol_seconds,
            tests[length].seconds(features),
            cosine(embeddings, left, right),
            norm(embeddings, left, right) if norm else None,
            float(unique_segments([task.enrolled, tests[length]])[0].seconds(features).sum()),
            snr=snr,
        )

    if not noisy:
        return [scores(length, embeddings, right) for length, right in zip(tests, rights, strict=True)]
    trials, found = np.arange(len(task.test)), []
    for length, condition in itertools.product(tests, noisy):
        heard = embed(setting.encoder, condition, tests[length]._replace(row=trials), setting.compute)
        joined = torch.cat([embeddings, F.normalize(heard, dim=1)])
        found.append(scores(length, joined, len(embeddings) + torch.from_numpy(trials), condition.name))
    return found


def _means(embeddings: torch.Tensor, model: np.ndarray) -> torch.Tensor:
    """Return the unit-length means (m, D) of the embeddings (e, D) of each model; `model` (e,) numbers them."""
    if len(model) == model[-1] + 1:
        return embeddings
    sums = torch.zeros(int(model[-1]) + 1, embeddings.shape[1])
    return F.normalize(sums.index_add_(0, torch.from_numpy(model), embeddings), dim=1)

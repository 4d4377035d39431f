"""Verification: find the utterances of a trial list, score the trials, and compute LLRs of the scores."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from configure import FRAMES_PER_SECOND
from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation.calibration import ScoredTrials
from evaluation.context import EvaluationContext
from evaluation.embedding import Scores, Segments, cosine, embed, embed_once, unique_segments
from evaluation.noise import NoisyTests
from evaluation.normalisation import Cohort, as_norm
from system.console import UserError

Conditions = Mapping[str, NoisyTests | None]  # column snr of the score file -> tests in noise; None: as recorded
UNDISTURBED: Conditions = {"": None}  # the only condition of an evaluation without noise


class TrialSet(NamedTuple):
    """Trials to score, and their enrolled models. A model has one or several utterances."""

    trials: Trials
    enrolled: Segments  # (e,) enrolment utterances of all models
    model: np.ndarray  # (e,) model of each segment, from 0, ascending
    of_trial: np.ndarray  # (n,) model of each trial
    test: np.ndarray  # (n,) rows of the test utterances

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows (n,) of the enrolment and of the test utterances; of a model, the row of its first utterance."""
        return self.enrolled.row[np.searchsorted(self.model, self.of_trial)], self.test

    def speakers(self, features: FeatureIndex) -> set[str]:
        """Return the names of the speakers of the trials."""
        return {features.speakers[speaker] for speaker in np.unique(features.speaker[np.concatenate(self.sides)])}

    @property
    def enrol_seconds(self) -> np.ndarray:
        """The total seconds (n,) of the utterances that enrol the model of each trial."""
        return np.bincount(self.model, self.enrolled.length)[self.of_trial] / FRAMES_PER_SECOND

    @property
    def same_utterance(self) -> np.ndarray:
        """A mask (n,) of the trials whose test utterance also enrols their model."""
        n_rows = 1 + max(self.enrolled.row.max(initial=0), self.test.max(initial=0))
        return np.isin(self.of_trial * n_rows + self.test, self.model * n_rows + self.enrolled.row)

    def where(self, kept: np.ndarray) -> "TrialSet":
        """Return the trials for which the mask `kept` (n,) is true, with the models of these trials."""
        used, of_trial = np.unique(self.of_trial[kept], return_inverse=True)
        enrolling = np.isin(self.model, used)
        enrolled = Segments(*(column[enrolling] for column in self.enrolled))
        model = np.searchsorted(used, self.model[enrolling])
        return TrialSet(self.trials.where(kept), enrolled, model, of_trial, self.test[kept])


def find_trials(features: FeatureIndex, trials: Trials, models: Mapping[str, Sequence[str]] | None = None) -> TrialSet:
    """Find the utterances of trials in the features.

    The enrolment side of a trial is an utterance or, with `models`, the name of a model; `models` has the utterances of
    each model. UserError naming a model or an utterance that is missing.
    """
    models = models or {name: [name] for name in trials.enrol}
    used = sorted(set(trials.enrol))
    if lacking := [name for name in used if name not in models]:
        missing = f"{len(lacking):,} of {len(used):,} models are missing"
        raise UserError(f"{lacking[0]}: not in the enrolment list ({missing})")
    number = {name: i for i, name in enumerate(used)}
    enrolled = Segments.full(features, features.rows([utterance for name in used for utterance in models[name]]))
    model = np.repeat(np.arange(len(used)), [len(models[name]) for name in used])
    of_trial = np.array([number[name] for name in trials.enrol])
    return TrialSet(trials, enrolled, model, of_trial, features.rows(trials.test))


def score_trials(
    context: EvaluationContext,
    trial_set: TrialSet,
    tests: Mapping[str, Segments],
    cohort: Cohort | None = None,
    conditions: Conditions = UNDISTURBED,
) -> list[Scores]:
    """Return the scores of n trials at each length and in each noise condition.

    `tests` maps the name of each length to the test segments (n,); with `cohort` there are as-norm scores, too. Without
    noise a segment is embedded once for all trials. In noise it is embedded for each trial, because the noise differs.
    """
    features, undisturbed = context.features, tests if None in conditions.values() else {}
    sides = [trial_set.enrolled, *undisturbed.values()]
    embeddings, (enrolled, *rights) = embed_once(context.encoder, features, sides, context.compute)
    right_of = dict(zip(undisturbed, rights, strict=True))
    left, enrol_seconds = len(embeddings) + torch.from_numpy(trial_set.of_trial), trial_set.enrol_seconds
    embeddings = torch.cat([embeddings, _means(embeddings[enrolled], trial_set.model)])

    def scores(length: str, snr: str, embeddings: torch.Tensor, right: torch.Tensor) -> Scores:
        return Scores(
            length,
            enrol_seconds,
            tests[length].seconds(features),
            cosine(embeddings, left, right),
            as_norm(cohort, embeddings, left, right) if cohort else None,
            float(unique_segments([trial_set.enrolled, tests[length]])[0].seconds(features).sum()),
            snr=snr,
        )

    trials, found = np.arange(len(trial_set.test)), []
    for length, (snr, condition) in itertools.product(tests, conditions.items()):
        if condition is None:
            found.append(scores(length, snr, embeddings, right_of[length]))
            continue
        disturbed = embed(context.encoder, condition, tests[length]._replace(row=trials), context.compute)
        joined = torch.cat([embeddings, F.normalize(disturbed, dim=1)])
        found.append(scores(length, snr, joined, len(embeddings) + torch.from_numpy(trials)))
    return found


def _means(embeddings: torch.Tensor, model: np.ndarray) -> torch.Tensor:
    """Return the unit-length mean (m, D) of the embeddings (e, D) of each model; `model` (e,) is the model of each."""
    if len(model) == model[-1] + 1:
        return embeddings
    sums = embeddings.new_zeros(int(model[-1]) + 1, embeddings.shape[1])
    return F.normalize(sums.index_add_(0, torch.from_numpy(model), embeddings), dim=1)


def scored_trials(scores: Sequence[Scores], labels: np.ndarray, speakers: Sequence[np.ndarray]) -> ScoredTrials:
    """Return the scores of n trials in all tests as one list.

    Labels (n,) are true for target trials; `speakers` are the indices (n,) of the speakers of both sides.
    """
    return ScoredTrials.pooled(
        ScoredTrials(s.plain, labels, s.enrol_seconds, s.test_seconds, *speakers) for s in scores
    )

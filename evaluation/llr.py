"""An evaluation's log-likelihood ratios (LLRs): by a kept calibration, or of held-out speakers while fitting one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation import report
from evaluation.calibration import calibration_path, fit, load_calibration, save_calibration
from evaluation.embedding import Scores
from system import ranks
from system.console import UserError
from system.files import sha256

SEED = 0  # of the speakers' two halves


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


def split_half_llr(
    scores: np.ndarray,
    labels: np.ndarray,
    enrol_seconds: np.ndarray,
    test_seconds: np.ndarray,
    enrol_speaker: np.ndarray,
    test_speaker: np.ndarray,
) -> np.ndarray:
    """Return the LLR (n,) of each trial by a calibration fitted on other speakers; NaN where that cannot be.

    The speakers are split at random into two halves; the trials within a half are given LLRs by the fit on those
    within the other. Trials across the halves have no LLR. Arguments are those of `fit`, and the speakers' numbers
    (n,) of both sides. UserError as for `fit`.
    """
    speakers = np.unique([enrol_speaker, test_speaker])
    if len(speakers) < 4:
        raise UserError(f"calibration: {len(speakers)} speakers cannot be split into halves of two or more")
    first = np.random.default_rng(SEED).permutation(speakers)[: len(speakers) // 2]
    enrol_in_first, test_in_first = np.isin(enrol_speaker, first), np.isin(test_speaker, first)
    halves = enrol_in_first & test_in_first, ~enrol_in_first & ~test_in_first
    llr = np.full(len(scores), np.nan)
    for fitted_on, measured_on in (halves, halves[::-1]):
        calibration = fit(*(column[fitted_on] for column in (scores, labels, enrol_seconds, test_seconds)))
        measured = (column[measured_on] for column in (scores, enrol_seconds, test_seconds))
        llr[measured_on] = calibration.llr(*measured)
    return llr

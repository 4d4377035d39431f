"""Read trial lists and enrolment lists in the formats of common toolkits; write trial lists in VoxCeleb's format."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system import console
from system.console import UserError
from system.files import read_lines, read_rows, replacing

LABELS = {"1": True, "0": False, "target": True, "nontarget": False, "non-target": False, "tgt": True, "imp": False}
# Format of a line -> the positions of label, enrolment and test in it.
FORMATS = {
    "LABEL ENROLMENT TEST": (0, 1, 2),  # VoxCeleb
    "ENROLMENT TEST LABEL": (2, 0, 1),  # Kaldi, 3D-Speaker, CN-Celeb
    "ENROLMENT TEST": (None, 0, 1),  # VoxSRC's blind lists
}
SIDES = ("enrol", "test")  # columns of --save_scores
REPEATING = ("length", "snr")  # columns of --save_scores; all trials are repeated for each of their values


class Trials(NamedTuple):
    """A list of n verification trials."""

    label: np.ndarray  # (n,) bool, True for a target trial (the same speaker); (0,) if the list has no labels
    enrol: np.ndarray  # (n,) str objects: <speaker>/<video>/<utterance>.wav, or a model of an enrolment list
    test: np.ndarray  # (n,) str objects

    @property
    def labelled(self) -> bool:
        """Whether the list has labels."""
        return len(self.label) == len(self.enrol)

    def where(self, kept: np.ndarray) -> "Trials":
        """Return the trials for which `kept` (n,) bool is true."""
        return Trials(self.label[kept] if self.labelled else self.label, self.enrol[kept], self.test[kept])

    def checked(self, path: Path) -> "Trials":
        """Return the unchanged trials; UserError naming their list if no error rate can be computed from them."""
        if not len(self.enrol):
            raise UserError(f"{path}: no trials to score")
        if not self.labelled:
            raise UserError(f"{path}: its trials have no labels; an error rate needs target and non-target trials")
        if self.label.all() or not self.label.any():
            kind = "only target" if self.label.all() else "no target"
            raise UserError(f"{path}: {kind} trials to score; an error rate needs target and non-target trials")
        return self


def read_trials(path: Path, blind: bool = False) -> Trials:
    """Return the trials of a list in one of the FORMATS, or of a CSV file of --save_scores.

    UserError naming the file, and the first line whose format differs. A list without labels is also a UserError unless
    `blind` is true.
    """
    lines = read_lines(path, "no such trial list; dataprep.py downloads it, --trials chooses another list")
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    is_csv = set(SIDES) <= set(header)
    label, enrol, test = _of_csv(path, [",".join(header), *lines[1:]]) if is_csv else _of_words(path, lines)
    if not enrol:
        raise UserError(f"{path}: contains no trials")
    labels = np.array([LABELS[word] for word in label], bool)
    trials = Trials(labels, np.array(enrol, object), np.array(test, object))
    return trials if blind and not trials.labelled else trials.checked(path)


def read_enrolment(path: Path) -> dict[str, list[str]]:
    """Return the utterances of each model in an enrolment list of Kaldi or CN-Celeb, with lines MODEL UTTERANCE...

    A model may have several lines. UserError naming the file, and the line if it has another format.
    """
    models: dict[str, list[str]] = {}
    for _, (model, utterances) in read_rows(path, "MODEL UTTERANCE...", "no such enrolment list"):
        models.setdefault(model, []).extend(utterances.split())
    return models


def _of_csv(path: Path, lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return labels (none if the file has no column of labels), enrolments and tests.

    If the trials are repeated at several test lengths or signal-to-noise ratios, only the first of these is read.
    """
    try:
        rows = list(csv.DictReader(lines, restval=""))
    except csv.Error as error:
        raise UserError(f"{path}: not a trial list ({error})") from None
    for number, row in enumerate(rows, 2):
        if row.get("label", "1") not in LABELS:
            raise UserError(f"{path}: line {number}: '{row['label']}' is not a label, 1 or 0")
    n_all, rows = len(rows), [row for row in rows if all(row.get(name) == rows[0].get(name) for name in REPEATING)]
    if len(rows) < n_all:
        console.warn(f"{path}: {n_all - len(rows):,} rows repeat the trials at other lengths or SNRs; they are skipped")
    label = [row["label"] for row in rows if "label" in row]
    return label, [row["enrol"] for row in rows], [row["test"] for row in rows]


def _of_words(path: Path, lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return labels (none if the list has none), enrolments and tests."""
    numbered = [(number, words) for number, line in enumerate(lines, 1) if (words := line.split())]
    line_format = next((name for name in FORMATS if all(_fits(words, name) for _, words in numbered)), None)
    if line_format is None:
        n_fitting = {name: sum(_fits(words, name) for _, words in numbered) for name in FORMATS}
        most = max(FORMATS, key=lambda name: n_fitting[name])
        number, words = next(line for line in numbered if not _fits(line[1], most))
        expected = f"'{most}' of the other lines" if n_fitting[most] else " or ".join(f"'{name}'" for name in FORMATS)
        raise UserError(f"{path}: line {number}: '{' '.join(words)[:80]}' does not have the format {expected}")
    label, enrol, test = FORMATS[line_format]
    labels = [] if label is None else [words[label].lower() for _, words in numbered]
    return labels, [words[enrol] for _, words in numbered], [words[test] for _, words in numbered]


def _fits(words: list[str], line_format: str) -> bool:
    """Return whether a line of these words has a format."""
    label, *_ = FORMATS[line_format]
    if label is None:
        return len(words) == 2 and not any(word.lower() in LABELS for word in words)
    return len(words) == 3 and words[label].lower() in LABELS


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in VoxCeleb's format; UserError as list_content."""
    with replacing(path) as temporary:
        temporary.write_bytes(list_content(trials))


def list_content(trials: Trials) -> bytes:
    """Return a trial list in VoxCeleb's format as bytes; UserError for a name with white space."""
    if spaced := next((name for name in sorted({*trials.enrol, *trials.test}) if len(name.split()) != 1), None):
        raise UserError(f"{spaced!r}: trial lists cannot contain names with white space; rename it")
    rows = zip(trials.label.astype(int).tolist(), trials.enrol, trials.test, strict=True)
    return "".join(f"{label} {enrol} {test}\n" for label, enrol, test in rows).encode(errors="surrogateescape")

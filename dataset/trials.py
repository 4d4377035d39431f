"""Trial lists and enrolment lists: reading the forms that toolkits of the field write, writing VoxCeleb's."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system import console
from system.console import UserError
from system.files import read_lines, replacing

LABELS = {"1": True, "0": False, "target": True, "nontarget": False, "non-target": False, "tgt": True, "imp": False}
# A form of line -> where its label, its enrolment and its test stand.
FORMS = {
    "LABEL ENROLMENT TEST": (0, 1, 2),  # VoxCeleb
    "ENROLMENT TEST LABEL": (2, 0, 1),  # Kaldi, 3D-Speaker, CN-Celeb
    "ENROLMENT TEST": (None, 0, 1),  # VoxSRC's blind lists
}
SIDES = ("enrol", "test")  # columns of --save_scores: enrolment and test
REPEATING = ("length", "snr")  # columns of --save_scores: each value has all the trials


class Trials(NamedTuple):
    """A list of n verification trials."""

    label: np.ndarray  # (n,) bool, True for a target trial: both sides are one speaker; (0,) if the list has no labels
    enrol: np.ndarray  # (n,) str objects: <speaker>/<video>/<utterance>.wav, or a model of an enrolment list
    test: np.ndarray  # (n,) str objects

    @property
    def labelled(self) -> bool:
        """Tell whether the list has labels."""
        return len(self.label) == len(self.enrol)

    def where(self, kept: np.ndarray) -> "Trials":
        """Return the trials that `kept` (n,) bool is true for."""
        return Trials(self.label[kept] if self.labelled else self.label, self.enrol[kept], self.test[kept])

    def checked(self, path: Path) -> "Trials":
        """Return the trials as they are; UserError naming their list unless error rates can be computed from them."""
        if not len(self.enrol):
            raise UserError(f"{path}: no trials to score")
        if not self.labelled:
            raise UserError(f"{path}: its trials have no labels; an error rate needs target and non-target ones")
        if self.label.all() or not self.label.any():
            kind = "only target" if self.label.all() else "no target"
            raise UserError(f"{path}: {kind} trials to score; an error rate needs target and non-target ones")
        return self


def read_trials(path: Path, blind: bool = False) -> Trials:
    """Read a trial list of any of the FORMS, or a CSV file as --save_scores writes it.

    UserError naming the file, and the line where one has another form than the rest. Without `blind` a list without
    labels is a UserError too.
    """
    lines = read_lines(path, "no such trial list; dataprep.py puts it there, --trials names another")
    header = lines[0].strip().split(",") if lines else []
    label, enrol, test = _of_csv(path, lines) if set(SIDES) <= set(header) else _of_words(path, lines)
    if not enrol:
        raise UserError(f"{path}: holds no trials")
    labels = np.array([LABELS[word] for word in label], bool)
    trials = Trials(labels, np.array(enrol, object), np.array(test, object))
    return trials if blind and not trials.labelled else trials.checked(path)


def read_enrolment(path: Path) -> dict[str, list[str]]:
    """Read an enrolment list, lines `MODEL UTTERANCE...`, as Kaldi and CN-Celeb write them; return the models.

    Several lines of one model add up. UserError naming the file, and the line that has another form.
    """
    models: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path, "no such enrolment list"), 1):
        model, *utterances = line.split() or [""]
        if model and not utterances:
            raise UserError(f"{path}: line {number}: '{model[:80]}' is not of the form 'MODEL UTTERANCE...'")
        if model:
            models.setdefault(model, []).extend(utterances)
    if not models:
        raise UserError(f"{path}: holds no models")
    return models


def _of_csv(path: Path, lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return labels, none if the file has no column of them, enrolments and tests.

    Of a file with several test lengths or signal-to-noise ratios, which repeat the trials, the first rows count.
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
        console.warn(f"{path}: {n_all - len(rows):,} rows repeat the trials at other lengths or noises; not read")
    label = [row["label"] for row in rows if "label" in row]
    return label, [row["enrol"] for row in rows], [row["test"] for row in rows]


def _of_words(path: Path, lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return labels, none in a list without, enrolments and tests."""
    numbered = [(number, words) for number, line in enumerate(lines, 1) if (words := line.split())]
    form = next((form for form in FORMS if all(_fits(words, form) for _, words in numbered)), None)
    if form is None:
        fitting = {form: sum(_fits(words, form) for _, words in numbered) for form in FORMS}
        form = max(FORMS, key=lambda form: fitting[form])
        number, words = next(line for line in numbered if not _fits(line[1], form))
        others = f"'{form}', as the other lines are" if fitting[form] else " or ".join(f"'{name}'" for name in FORMS)
        raise UserError(f"{path}: line {number}: '{' '.join(words)[:80]}' is not of the form {others}")
    label, enrol, test = FORMS[form]
    labels = [] if label is None else [words[label].lower() for _, words in numbered]
    return labels, [words[enrol] for _, words in numbered], [words[test] for _, words in numbered]


def _fits(words: list[str], form: str) -> bool:
    """Tell whether a line of these words is of a form."""
    label, *_ = FORMS[form]
    if label is None:
        return len(words) == 2 and not any(word.lower() in LABELS for word in words)
    return len(words) == 3 and words[label].lower() in LABELS


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in VoxCeleb's form; UserError for a name that cannot stand in one."""
    with replacing(path) as temporary:
        temporary.write_bytes(list_content(trials))


def list_content(trials: Trials) -> bytes:
    """Return the bytes of a trial list's file in VoxCeleb's form; UserError for a name that cannot stand in one."""
    if spaced := next((name for name in sorted({*trials.enrol, *trials.test}) if len(name.split()) != 1), None):
        raise UserError(f"{spaced!r}: a name with white space cannot stand in a trial list; rename it")
    rows = zip(trials.label.astype(int).tolist(), trials.enrol, trials.test, strict=True)
    return "".join(f"{label} {enrol} {test}\n" for label, enrol, test in rows).encode(errors="surrogateescape")

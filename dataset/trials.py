"""Trial lists and enrolment lists: reading the forms that toolkits of the field write, writing VoxCeleb's."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

from system.console import UserError
from system.files import replacing

LABELS = {"1": True, "0": False, "target": True, "nontarget": False, "non-target": False, "tgt": True, "imp": False}
# A form of line -> where its label, its enrolment and its test stand.
FORMS = {
    "LABEL ENROLMENT TEST": (0, 1, 2),  # VoxCeleb
    "ENROLMENT TEST LABEL": (2, 0, 1),  # Kaldi, 3D-Speaker, CN-Celeb
    "ENROLMENT TEST": (None, 0, 1),  # VoxSRC's blind lists
}


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
    trials = _of_csv(path) if _is_csv(path) else _of_words(path)
    return trials if blind and not trials.labelled else trials.checked(path)


def read_enrolment(path: Path) -> dict[str, list[str]]:
    """Read an enrolment list, lines `MODEL UTTERANCE...`, as Kaldi and CN-Celeb write them; return the models.

    Several lines of one model add up. UserError naming the file, and the line that has another form.
    """
    models: dict[str, list[str]] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                model, *utterances = line.split() or [""]
                if model and not utterances:
                    raise UserError(f"{path}: line {number}: '{model[:80]}' is not of the form 'MODEL UTTERANCE...'")
                if model:
                    models.setdefault(model, []).extend(utterances)
    except FileNotFoundError:
        raise UserError(f"{path}: no such enrolment list") from None
    if not models:
        raise UserError(f"{path}: holds no models")
    return models


def _is_csv(path: Path) -> bool:
    """Tell whether a trial list begins with a header as --save_scores writes it."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return {"enrol", "test"} <= set(file.readline().strip().split(","))
    except FileNotFoundError:
        raise UserError(f"{path}: no such trial list; dataprep.py puts it there, --trials names another") from None


def _table(path: Path, **form: object) -> pandas.DataFrame:
    """Read a table of text; UserError naming the file if it is none."""
    try:
        # A speaker may be called NA, and a name may have bytes that are not UTF-8.
        table = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape", **form)
    except ValueError as error:  # what pandas' parser raises
        raise UserError(f"{path}: not a trial list ({str(error).strip().splitlines()[-1]})") from None
    if table.empty:
        raise UserError(f"{path}: holds no trials")
    return table.fillna("")


def _of_csv(path: Path) -> Trials:
    table = _table(path)
    if "length" in table:  # the same trials at several test lengths
        table = table[table["length"] == table["length"].iloc[0]]
    label = table["label"] if "label" in table else None
    if label is not None and not label.isin(LABELS).all():
        row = int(np.argmin(label.isin(LABELS)))
        raise UserError(f"{path}: line {row + 2}: '{label.iloc[row]}' is not a label, 1 or 0")
    return _trials(label, table["enrol"], table["test"])


def _of_words(path: Path) -> Trials:
    columns = [0, 1, 2, 3]
    words = _table(path, sep=r"\s+", header=None, names=columns, quoting=csv.QUOTE_NONE)
    labels = [words[at].str.lower() for at in columns[:3]]
    of_label = [column.isin(LABELS) for column in labels]
    n_words = (words != "").sum(axis=1)
    fits = {
        "LABEL ENROLMENT TEST": of_label[0] & (n_words == 3),
        "ENROLMENT TEST LABEL": of_label[2] & (n_words == 3),
        "ENROLMENT TEST": ~of_label[0] & ~of_label[1] & (n_words == 2),
    }
    form = max(fits, key=lambda name: int(fits[name].sum()))
    if not fits[form].all():
        at = int(np.argmin(fits[form].to_numpy()))
        others = f"'{form}', as the other lines are" if fits[form].any() else " or ".join(f"'{name}'" for name in FORMS)
        line = " ".join(words.iloc[at]).strip()
        raise UserError(f"{path}: line {_line_number(path, at)}: '{line[:80]}' is not of the form {others}")
    label, enrol, test = FORMS[form]
    return _trials(None if label is None else labels[label], words[enrol], words[test])


def _line_number(path: Path, at: int) -> int:
    """Return the number, from 1, of the line that is number `at`, from 0, of those that are not blank."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return [number for number, line in enumerate(file, 1) if line.strip()][at]


def _trials(label: pandas.Series | None, enrol: pandas.Series, test: pandas.Series) -> Trials:
    labels = np.zeros(0, bool) if label is None else label.map(LABELS).to_numpy(bool)
    return Trials(labels, enrol.to_numpy(object), test.to_numpy(object))


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in VoxCeleb's form; UserError for a name that cannot stand in one."""
    content = list_content(trials)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def list_content(trials: Trials) -> bytes:
    """Return the bytes of a trial list's file in VoxCeleb's form; UserError for a name that cannot stand in one."""
    if spaced := next((name for name in sorted({*trials.enrol, *trials.test}) if len(name.split()) != 1), None):
        raise UserError(f"{spaced!r}: a name with white space cannot stand in a trial list; rename it")
    rows = zip(trials.label.astype(int).tolist(), trials.enrol, trials.test, strict=True)
    return "".join(f"{label} {enrol} {test}\n" for label, enrol, test in rows).encode(errors="surrogateescape")

"""The records in the folder of a run: config.json (flags, versions, speakers) and log.csv (a row for each epoch)."""

import csv
import itertools
import json
import os
import platform
from pathlib import Path

import numpy
import torch

from system import console, ranks
from system.files import replacing

CONFIG_NAME, LOG_NAME, EER = "config.json", "log.csv", "val_eer"
DECISIVE = (  # the flags that the weights depend on
    "loss_type use_GC n_shot n_query use_variable nb_class_train data_type lr max_grad_norm scale_lr sync_bn seed "
    "precision augment augment_prob noise_snr music_snr babble_snr noise_dir rir_dir"
).split()


def write_config(folder: Path, arguments: dict[str, object], speakers: list[str], threads: int | None) -> None:
    """Write config.json: flags, ranks, threads (None on a GPU), versions and training speakers."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    content = {"arguments": arguments, "ranks": ranks.world_size(), "threads": threads, "versions": versions}
    content["speakers"] = speakers
    with replacing(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str))


def flags_in_force(folder: Path, arguments: dict[str, object], threads: int | None) -> dict[str, object]:
    """Return the flags of a resumed run: those given, with the --lr that it was started with.

    Warns of decisive flags, and of numbers of ranks and threads, that differ from those in config.json. A damaged
    config.json is renamed, with a warning.
    """
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text())
        before, ranks_before, threads_before = content["arguments"], content.get("ranks", 1), content.get("threads")
        changed = [name for name in DECISIVE if name in before and before[name] != arguments[name]]
        in_force = arguments | {"lr": before["lr"]}
    except FileNotFoundError:  # an official checkpoint has none next to it
        return arguments
    except (ValueError, KeyError, TypeError):
        aside = _put_aside(path)
        console.warn(f"{path}: damaged; it is renamed to {aside}, and the flags are not compared with the earlier ones")
        return arguments
    listed = [f"--{name} {arguments[name]} (was {before[name]})" for name in changed]
    if ranks_before != ranks.world_size():
        listed.append(f"{ranks.world_size()} ranks (was {ranks_before})")
    if listed:
        console.warn(f"resumed with other flags: {', '.join(listed)}; the learning rate is the checkpoint's")
    if threads and threads_before and threads != threads_before:
        console.warn(
            f"{path}: threads {threads}, before {threads_before}: sums are rounded differently, so the weights will "
            "not equal those of an uninterrupted run bit by bit; OMP_NUM_THREADS sets the number"
        )
    return in_force


def add_row(folder: Path, row: dict[str, float]) -> None:
    """Write the row of an epoch into log.csv and remove the rows of later epochs; NaN becomes an empty field."""
    log = folder / LOG_NAME
    rows = [old for old in _read_rows(log, list(row)) if int(old["epoch"]) < row["epoch"]]
    _write_rows(log, [*rows, {name: "" if value != value else value for name, value in row.items()}])


def logged_epochs(folder: Path) -> set[int]:
    """Return the epochs that have a row in log.csv: those that the run has trained."""
    return {int(row["epoch"]) for row in _read_rows(folder / LOG_NAME)}


def lacks_eer(folder: Path, epoch: int) -> bool:
    """Tell whether an epoch has a row in log.csv without a validation EER."""
    return any(int(row["epoch"]) == epoch and row.get(EER) == "" for row in _read_rows(folder / LOG_NAME))


def add_eer(folder: Path, epoch: int, eer: float) -> None:
    """Write the validation EER (percent) into the row of an epoch."""
    log = folder / LOG_NAME
    _write_rows(log, [row | ({EER: eer} if int(row["epoch"]) == epoch else {}) for row in _read_rows(log)])


def _write_rows(log: Path, rows: list[dict]) -> None:
    with replacing(log) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(log: Path, columns: list[str] | None = None) -> list[dict[str, str]]:
    """Return the rows, unparsed; a file that is no log, or has other columns, is renamed with a warning."""
    try:
        with open(log, newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
        columns = columns or list(reader.fieldnames or [])
        if all(list(row) == columns and None not in row.values() and row["epoch"].isdecimal() for row in rows):
            return rows
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, csv.Error):
        pass
    console.warn(f"{log}: not a log of this training; it is renamed to {_put_aside(log)} and a new one is started")
    return []


def _put_aside(path: Path) -> str:
    """Rename a damaged file to NAME.damaged or, where that exists, to NAME.damaged.2, .3, ...; return the new name."""
    damaged = path.with_name(f"{path.name}.damaged")
    names = itertools.chain([damaged], (damaged.with_name(f"{damaged.name}.{n}") for n in itertools.count(2)))
    return path.rename(next(name for name in names if not os.path.lexists(name))).name

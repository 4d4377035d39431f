"""The records of a run: config.json (flags, hardware, versions, speakers) and log.csv (a row for each epoch)."""

import csv
import json
import os
import platform
from pathlib import Path

import numpy
import torch

from system import console, ranks
from system.console import UserError
from system.files import replacing

CONFIG_NAME, LOG_NAME, EER = "config.json", "log.csv", "val_eer"
DECISIVE = (  # the flags that determine the weights
    "loss_type use_GC n_shot n_query use_variable nb_class_train data_type lr max_grad_norm scale_lr sync_bn seed "
    "precision augment augment_prob noise_snr music_snr babble_snr noise_dir rir_dir"
).split()


def hardware_of(device: torch.device) -> dict[str, object]:
    """Return what affects rounding: the device, the number of ranks and, on a CPU, the number of threads."""
    on_cpu = device.type == "cpu"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": f"cpu with {torch.backends.cpu.get_cpu_capability()}" if on_cpu else name,
        "ranks": ranks.world_size(),
        "threads": torch.get_num_threads() if on_cpu else None,
    }


def write_config(folder: Path, flags: dict[str, object], hardware: dict[str, object], speakers: list[str]) -> None:
    """Write config.json: flags, hardware, versions and training speakers."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    content = {"arguments": flags, **hardware, "versions": versions, "speakers": speakers}
    with replacing(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str))


def compare_config(folder: Path, flags: dict[str, object], hardware: dict[str, object]) -> dict[str, object]:
    """Return the flags for config.json of a resumed run: the given flags, but with the --lr that started the run.

    A warning lists the flags in DECISIVE and the hardware that differ from config.json. UserError if it is damaged.
    """
    path = folder / CONFIG_NAME
    try:
        before = json.loads(path.read_text())
        flags_before = before["arguments"]
        changed = [name for name in DECISIVE if name in flags_before and flags_before[name] != flags[name]]
        differences = [f"--{name} {flags[name]} (was {flags_before[name]})" for name in changed]
        result = flags | {"lr": flags_before["lr"]}
    except FileNotFoundError:  # runs of the official code have no config.json
        return flags
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; remove it to resume without a comparison of the flags") from None
    for name, value in hardware.items():
        if before.get(name) not in (None, value) and value is not None:
            differences.append(f"{name} {value} (was {before[name]})")
    old_list, new_list = flags_before.get("val_trials"), flags.get("val_trials")
    if old_list and new_list and str(new_list) != old_list:
        console.warn(f"{path}: --val_trials {new_list} (was {old_list}); log.csv will have EERs of both trial lists")
    if differences:
        console.warn(
            f"{path}: resumed with {', '.join(differences)}; the weights will differ from those of an uninterrupted "
            "run; the learning rate of the checkpoint is used"
        )
    return result


def add_row(folder: Path, row: dict[str, float]) -> None:
    """Write the row of an epoch into log.csv and remove the rows of later epochs; NaN becomes an empty field."""
    log = folder / LOG_NAME
    earlier = [old for old in _read_rows(log) if int(old["epoch"]) < row["epoch"]]
    _write_rows(log, [*earlier, {name: "" if value != value else value for name, value in row.items()}])


def logged_epochs(folder: Path) -> set[int]:
    """Return the epochs that have a row in log.csv: the epochs that this run has trained."""
    return {int(row["epoch"]) for row in _read_rows(folder / LOG_NAME)}


def lacks_eer(folder: Path, epoch: int) -> bool:
    """Return whether the row of an epoch in log.csv has no validation EER."""
    return any(int(row["epoch"]) == epoch and row.get(EER) == "" for row in _read_rows(folder / LOG_NAME))


def add_eer(folder: Path, epoch: int, eer: float) -> None:
    """Write the validation EER (percent) into the row of an epoch."""
    log = folder / LOG_NAME
    _write_rows(log, [row | ({EER: eer} if int(row["epoch"]) == epoch else {}) for row in _read_rows(log)])


def _write_rows(log: Path, rows: list[dict]) -> None:
    with replacing(log) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(log: Path) -> list[dict[str, str]]:
    """Return the rows, unparsed; a damaged file is renamed to log.csv.damaged with a warning."""
    try:
        with open(log, newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        if all(row["epoch"].isdecimal() and None not in row and None not in row.values() for row in rows):
            return rows
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, csv.Error):
        pass
    damaged = log.with_name(f"{LOG_NAME}.damaged")
    os.replace(log, damaged)  # a warning only: a damaged log should not stop a training
    console.warn(f"{log}: damaged; renamed to {damaged.name}, and a new log is started")
    return []

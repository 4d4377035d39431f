"""The checkpoints of a run: find the one to resume from, restore it, save, and remove or move old ones."""

import itertools
import math
import os
import shutil
from pathlib import Path

import torch

from evaluation.calibration import calibration_path
from loss import EpisodeMetrics, Objective
from model.checkpoint import (
    CLASS_VECTORS,
    Checkpoint,
    checkpoint_path,
    holds_run,
    load_checkpoint,
    newest_checkpoint,
    numbered_checkpoints,
    save_checkpoint,
    state_dict_of,
    unfinished_path,
)
from system import console
from system.console import UsageError, UserError
from system.files import remove_unfinished
from training.logbook import LOG_NAME, logged_epochs
from training.metrics import EpochMetrics
from training.step import TrainingState

SCHEDULER_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")  # not the settings


def find_start(
    folder: Path, resume: bool | str, cp_num: int | None, backbone: str, has_class_vectors: bool
) -> tuple[Path, Checkpoint] | None:
    """Return file and content of the checkpoint to resume from; None for a new run.

    UserError if a new run would start in the folder of another run, if the checkpoint is missing, or if it does not
    fit the backbone or the objective.
    """
    has_run = holds_run(folder)
    if not (has_run if resume == "auto" else resume):
        if has_run:
            raise UserError(
                f"{folder}: already contains a run; resume it with --use_checkpoint True or choose another --n_folder"
            )
        return None
    path, checkpoint = newest_checkpoint(folder, cp_num)
    if checkpoint.backbone != backbone:
        raise UserError(f"{path}: its backbone is {checkpoint.backbone}; add --backbone {checkpoint.backbone}")
    stored = checkpoint.class_vectors is not None
    if checkpoint.speakers and stored != has_class_vectors:  # official files always have class vectors
        found = "has class vectors, which these flags do not train" if stored else "lacks the class vectors"
        raise UserError(f"{path}: does not fit --loss_type and --use_GC ({found}); use the flags of its run")
    return path, checkpoint


def load_init(path: Path, backbone: str) -> Checkpoint:
    """Return the checkpoint of --init; UsageError if it has another backbone."""
    checkpoint = load_checkpoint(path)
    if checkpoint.backbone != backbone:
        raise UsageError(f"--init {path}: its backbone is {checkpoint.backbone}; add --backbone {checkpoint.backbone}")
    return checkpoint


def take_class_vectors(init: Checkpoint, objective: Objective, speakers: list[str]) -> bool:
    """Copy the class vectors of --init if it was trained on the same speakers; return whether they were copied."""
    ours, stored = objective.class_vectors, init.class_vectors
    if ours is None or stored is None or stored.shape != ours.shape or init.speakers != speakers:
        return False
    ours.data.copy_(stored)
    return True


def resume(state: TrainingState, path: Path, checkpoint: Checkpoint, per_epoch: int) -> None:
    """Restore a training from a checkpoint, and warn if the number of utterances has changed.

    `per_epoch` is the number of episodes per epoch. UserError if the checkpoint does not fit the flags and the data.
    """
    speakers, n_utterances = state.metadata["speakers"], state.metadata["n_utterances"]
    if checkpoint.speakers and checkpoint.speakers != speakers:
        raise UserError(f"{path}: trained on other speakers than those of the data; start from its encoder with --init")
    changed = ""
    if checkpoint.n_utterances not in (0, n_utterances):  # 0 in official files
        changed = f"trained on {checkpoint.n_utterances:,} utterances, but the data has {n_utterances:,}"
    try:
        restore(state, checkpoint, per_epoch)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:  # malformed states
        if console.lacks_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        reasons = "; ".join(filter(None, [reason, changed]))
        raise UserError(f"{path}: does not fit these flags and data ({reasons})") from None
    if changed:
        console.warn(f"{path}: {changed}; check whether files are missing")


def restore(state: TrainingState, checkpoint: Checkpoint, per_epoch: int) -> None:
    """Restore weights, optimiser, schedule and position; ValueError if the checkpoint does not fit this training."""
    state.model.encoder.load_state_dict(checkpoint.encoder().state_dict())
    class_vectors, stored = state.model.objective.class_vectors, checkpoint.class_vectors
    if class_vectors is not None:
        if stored is None or stored.shape != class_vectors.shape:
            n_stored = 0 if stored is None else len(stored)
            raise ValueError(f"class vectors of {n_stored} speakers instead of {len(class_vectors)}")
        class_vectors.data.copy_(stored)
    if checkpoint.episode > per_epoch:
        raise ValueError(f"{checkpoint.episode} completed episodes in an epoch of {per_epoch}")
    if checkpoint.optimizer:
        _restore_optimizer(state, checkpoint)
    schedule = {name: checkpoint.scheduler[name] for name in SCHEDULER_STATE if name in checkpoint.scheduler}
    if not all(isinstance(value, int | float) for value in schedule.values()):
        raise ValueError("the state of the scheduler contains a value that is not a number")
    state.scheduler.load_state_dict(schedule)
    sums = checkpoint.sums
    if sums and not (sums.keys() == set(EpisodeMetrics._fields) and all(type(sum_) is float for sum_ in sums.values())):
        raise ValueError(f"the sums must be one number for each of {', '.join(EpisodeMetrics._fields)}")
    state.epoch, state.episode = checkpoint.epoch, checkpoint.episode
    state.metrics = EpochMetrics(sums, checkpoint.episode)


def _restore_optimizer(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Restore momentum and learning rate, not the other settings of the optimiser.

    Each momentum buffer gets the memory format of its parameter, which the fused step requires.
    """
    (stored,), (own,) = checkpoint.optimizer["param_groups"], state.optimizer.param_groups
    indices, states = list(stored["params"]), checkpoint.optimizer["state"]
    if state.model.objective.class_vectors is None and CLASS_VECTORS in checkpoint.state_dict:
        unused = list(checkpoint.state_dict).index(CLASS_VECTORS)  # official files always have class vectors
        indices = [index for position, index in enumerate(indices) if position != unused or index in states]
    if len(indices) != len(own["params"]):
        raise ValueError(f"the optimiser has {len(indices)} parameters instead of {len(own['params'])}")
    for index, parameter in zip(indices, own["params"], strict=True):
        momentum = states.get(index, {}).get("momentum_buffer")
        if momentum is None:
            continue
        if not (momentum.shape == parameter.shape and momentum.isfinite().all()):
            raise ValueError("the momentum is not finite or belongs to another network")
        buffer = torch.empty_like(parameter).copy_(momentum.detach().to(parameter.dtype))
        state.optimizer.state[parameter]["momentum_buffer"] = buffer
    if not (isinstance(stored["lr"], float) and 0 < stored["lr"] < math.inf):
        raise ValueError(f"the learning rate is {stored['lr']}")
    own["lr"] = stored["lr"]


def save_state(path: Path, state: TrainingState) -> None:
    """Write the state of a training to a checkpoint; UserError if the file cannot be written."""
    checkpoint = Checkpoint(
        epoch=state.epoch,
        state_dict=state_dict_of(state.model.encoder, state.model.objective.class_vectors),
        optimizer=state.optimizer.state_dict(),
        scheduler=state.scheduler.state_dict(),
        episode=state.episode,
        sums=state.metrics.sums,
        **state.metadata,
    )
    try:
        save_checkpoint(path, checkpoint)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); earlier checkpoints are intact. Fix this and resume with "
            "--use_checkpoint True"
        ) from None


def save_epoch(folder: Path, state: TrainingState, keep_last: int | None) -> None:
    """Write the checkpoint of the last completed epoch, remove unfinished_epoch.pth, keep `keep_last` checkpoints."""
    save_state(checkpoint_path(folder, state.epoch), state)
    unfinished_path(folder).unlink(missing_ok=True)
    if keep_last:
        remove_up_to(folder, state.epoch - keep_last)


def remove_up_to(folder: Path, last: int) -> None:
    """Remove the checkpoints up to an epoch, with the calibrations stored next to them.

    Checkpoints without a row in log.csv remain: this run did not write them. An example is an official checkpoint.
    """
    logged = logged_epochs(folder)
    for epoch, path in numbered_checkpoints(folder).items():
        if epoch <= last and epoch in logged:
            calibration_path(path).unlink(missing_ok=True)  # first: a kill leaves no calibration without checkpoint
            path.unlink()


def clean_folder(folder: Path, cp_num: int | None) -> None:
    """Remove the temporary files of a killed run; with --cp_num, move the checkpoints of later epochs away."""
    if cp_num is not None:
        _move_later(folder, cp_num)
    remove_unfinished(folder, os.listdir(folder))


def _move_later(folder: Path, epoch: int) -> None:
    """Move the checkpoints after an epoch, and the files stored next to them, into a new folder abandoned_N.

    The log is copied there. A warning names the folder.
    """
    later = [path for number, path in numbered_checkpoints(folder).items() if number > epoch]
    if _is_after(unfinished_path(folder), epoch):
        later.append(unfinished_path(folder))
    files = [file for path in later for file in folder.glob(f"{path.stem}.*")]
    if not files:
        return
    abandoned = next(path for n in itertools.count(1) if not (path := folder / f"abandoned_{n}").exists())
    abandoned.mkdir()
    if (folder / LOG_NAME).exists():
        shutil.copy2(folder / LOG_NAME, abandoned)
    for file in files:
        file.rename(abandoned / file.name)
    console.warn(f"{folder}: {len(files)} files of epochs after {epoch} were moved to {abandoned.name}")


def _is_after(unfinished: Path, epoch: int) -> bool:
    """Return whether unfinished_epoch.pth is later than the end of epoch `epoch`; true if it is damaged."""
    try:
        checkpoint = load_checkpoint(unfinished)
    except UserError:
        return unfinished.exists()
    return (checkpoint.epoch, checkpoint.episode) > (epoch, 0)

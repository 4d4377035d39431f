"""The lines that a training prints, and the check for losses and weights that are not finite."""

import math
from collections.abc import Mapping, Sequence

import torch

from dataset.episodes import TrainingEpisodes
from system import ranks
from system.console import UserError
from training.step import TrainingState


def describe_training(state: TrainingState, episodes: TrainingEpisodes, backbone: str, augment: Sequence[str]) -> str:
    """Return lines with the data, network and device, and the loss and accuracy at chance level."""
    device, dtype = state.compute.device, str(state.compute.dtype).removeprefix("torch.")
    lines = [
        f"{len(episodes.features)} utterances of {len(episodes.features.speakers)} speakers; {episodes.per_epoch} "
        f"episodes per epoch; {backbone} on {device} in {dtype}"
    ]
    if ranks.world_size() > 1:
        lines[0] += f"; {ranks.world_size()} ranks share the episodes"
    if augment:
        lines.append(f"crops are augmented: {', '.join(augment)}; {episodes.n_classes} classes (speakers times speeds)")
    if episodes.n_excluded:
        needed = episodes.n_shot + episodes.n_query
        lines.append(f"{episodes.n_excluded} speakers with fewer than {needed} utterances are excluded")
    objective = state.model.objective
    classes = {"episodic": episodes.n_way} if objective.episodic else {}
    if objective.class_vectors is not None:
        classes["global"] = episodes.n_classes
    lines += [
        f"chance, {kind}: accuracy {100 / n:.2f} %, loss ln {n} = {math.log(n):.3f}" for kind, n in classes.items()
    ]
    return "\n".join(lines)


def describe_metrics(means: Mapping[str, float]) -> str:
    """Return the losses and accuracies of the objective in one line, from their means by name."""
    parts = [
        f"{kind} {means[f'{kind}_loss']:.3f} (accuracy {100 * means[f'{kind}_accuracy']:.1f} %)"
        for kind in ("episodic", "global")
        if not math.isnan(means[f"{kind}_loss"])
    ]
    return f"{means['loss']:.3f} = {' + '.join(parts)}"


def describe_epoch(row: Mapping[str, float]) -> str:
    """Return the line of an epoch, from its row of log.csv."""
    line = f"epoch {row['epoch']}: loss {describe_metrics(row)}, lr {row['lr']:g}"
    if math.isnan(row["waiting"]):
        return line
    return f"{line}, {row['utterances_per_second']:.1f} utterances/s, {100 * row['waiting']:.1f} % waiting for data"


def check_finite(state: TrainingState, losses: torch.Tensor, episodes: TrainingEpisodes) -> None:
    """Raise UserError naming the episode if a loss (n,) of the last n episodes, or a weight, is not finite."""
    not_finite = losses.isfinite().logical_not().nonzero()
    if len(not_finite):
        what, index = "the loss is not finite", state.episode - len(losses) + int(not_finite[0])
    elif not all(value.isfinite().all() for value in state.model.state_dict().values()):
        what, index = "the weights are not finite after this episode", state.episode - 1
    else:
        return
    names = ", ".join(episodes.names((state.epoch + 1, index)))
    advice = "earlier checkpoints are intact: resume from one with --max_grad_norm"
    if state.epoch == 0:
        advice = "train again with a lower --lr or with --max_grad_norm"
    raise UserError(f"epoch {state.epoch + 1}, episode {index + 1}: {what}; {advice}; the episode contains {names}")

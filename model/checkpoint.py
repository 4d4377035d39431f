"""The checkpoint file: its form, writing it whole, reading it without running anything of it.

The file is the paper's release's: {'epoch', 'state_dict', 'optimizer'} at saved_model/baseline_NNN/checkpoint_EEE.pth,
with the release's names in state_dict. Our files add what continues a run exactly and what leaves the training
speakers out of a test; a file without the additions loads too.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from loss import EpisodeMetrics
from model.encoder import BACKBONES, EMBEDDING_SIZE, Bottleneck, Encoder
from system import console
from system.console import UserError
from system.files import is_folder, replacing

Weight = TypeVar("Weight", bound=Tensor)
MODEL_PATH = "saved_model"  # the folder of all runs unless --model_path names another
CLASS_VECTORS = "weight"  # of the release's state_dict
PROJECTION = "fc1"
# Beginnings of our names and of the release's.
RENAMED = (("projection.weight", PROJECTION), ("norm.", "pretrained.avg_bn."), ("trunk.", "pretrained."))


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    epoch: int  # the epoch that training goes on with is epoch + 1
    state_dict: dict[str, Tensor]  # under the release's names
    optimizer: dict = field(default_factory=dict)  # SGD's state, parameters in the order of state_dict
    # Below: what the release's files lack.
    scheduler: dict = field(default_factory=dict)
    speakers: list[str] = field(default_factory=list)  # the training speakers in the order of their classes
    data_type: str = ""
    episode: int = 0  # episodes of epoch + 1 that are done
    sums: dict[str, float] = field(default_factory=dict)  # of the metrics of these episodes, by name
    n_utterances: int = 0  # of the training data; 0 in files that do not say it
    # Not stored in a file:
    digest: str = field(default="", init=False)  # SHA-256 of the file that it was loaded from, in hexadecimal

    @property
    def backbone(self) -> str:
        """The name of the trunk, read off the parameters."""
        depths = tuple(
            len({name.split(".")[2] for name in self.state_dict if name.startswith(f"pretrained.layer{stage}.")})
            for stage in (1, 2, 3, 4)
        )
        bottleneck = "pretrained.layer1.0.conv3.weight" in self.state_dict
        for name, layout in BACKBONES.items():
            if layout.depths == depths and (layout.block is Bottleneck) == bottleneck:
                return name
        found = ", ".join(list(self.state_dict)[:3])
        raise ValueError(f"its parameters ({found}, ...) are of none of {', '.join(BACKBONES)}")

    @property
    def class_vectors(self) -> Tensor | None:
        """The class vectors (C, 256), None if the training had none."""
        return self.state_dict.get(CLASS_VECTORS)

    def encoder(self) -> Encoder:
        """Build the encoder with this checkpoint's weights; ValueError names what it lacks of them, or has beside."""
        with _NothingDrawn():
            encoder = Encoder(self.backbone)
        ours = {_release_name(name): name for name in encoder.state_dict()}
        needed, given = set(ours), set(self.state_dict) - {CLASS_VECTORS}
        for words, names in (("lacks", needed - given), ("has, and this encoder has not,", given - needed)):
            if names:
                raise ValueError(f"it {words} {len(names)} of its parameters: {', '.join(sorted(names)[:3])}")
        encoder.load_state_dict({ours[name]: self.state_dict[name] for name in given})
        return encoder

    def encoder_alone(self) -> "Checkpoint":
        """Return what recognition and evaluation need, a quarter of the size: no optimiser, and matrices halved.

        The vectors of the batch norms stay in float32: statistics of the features are beyond half precision. ValueError
        if it does not hold a weight.
        """
        weights = {name: value for name, value in self.state_dict.items() if name != CLASS_VECTORS}
        halved = {name: value.half() if value.dim() > 1 else value for name, value in weights.items()}
        if not all(value.isfinite().all() for value in halved.values()):
            raise ValueError("it has weights beyond half precision's 65,504")
        return Checkpoint(self.epoch, halved, speakers=self.speakers, data_type=self.data_type)


class _NothingDrawn(TorchFunctionMode):
    """Leaves new weights undefined: drawing them would move on torch's generator, which the whole program shares."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def state_dict_of(encoder: Encoder, class_vectors: Tensor | None) -> dict[str, Tensor]:
    """Return copies, on the CPU, of the weights and statistics under the release's names and in its order."""
    state = _in_release_order(encoder.state_dict().items(), class_vectors)
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def parameters_of(encoder: Encoder, class_vectors: nn.Parameter | None) -> list[nn.Parameter]:
    """Return the parameters in the release's order, by which the state of an optimiser refers to them."""
    return list(_in_release_order(encoder.named_parameters(), class_vectors).values())


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint: even a kill leaves the old file or the whole new one. OSError if it cannot be written."""
    serialised = io.BytesIO()  # torch.save to a path tells of a full disk in the words of its zip writer
    torch.save({name: getattr(checkpoint, name) for name in _stored()}, serialised)
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(serialised.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, the release's or ours, running no code of it; UserError naming the file if it is none.

    A lack of memory, which says nothing about the file, is raised as Python or torch raise it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    blob = path.read_bytes()  # by itself: a disk that cannot be read is no damaged checkpoint
    # A damaged or hostile file can make torch raise nearly anything, here and below.
    try:
        content = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:
        if console.lacks_memory(error):
            raise
        reason = str(error).split(".", 1)[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole checkpoint, or one that would run code ({reason})") from None
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        content = {"epoch": 0, "state_dict": content}  # a state_dict by itself
    if not (isinstance(content, dict) and isinstance(content.get("state_dict"), dict)):
        found = ", ".join(map(str, content))[:200] if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: not a checkpoint: no state_dict of weights in it (it holds: {found})")
    try:
        checkpoint = _checked({"epoch": 0} | content)
    except Exception as error:
        if console.lacks_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"{path}: not a checkpoint of this encoder: {reason[:300]}") from None
    checkpoint.digest = hashlib.sha256(blob).hexdigest()
    return checkpoint


def _stored() -> list[str]:
    """Return the names of what a file holds."""
    return [field.name for field in fields(Checkpoint) if field.init]


def _checked(content: dict) -> Checkpoint:
    """Return a file's content as a checkpoint of plain finite tensors that fit the encoder; ValueError if it is not."""
    if "speakers" not in content:  # the release writes epoch k's file one update into epoch k + 1, and says so
        content["epoch"] = max(0, content["epoch"] - 1)
    if isinstance(sums := content.get("sums"), list):  # of earlier versions, in this order
        content["sums"] = dict(zip(EpisodeMetrics._fields, sums, strict=False))
    hints = get_type_hints(Checkpoint)
    for name in _stored():
        kind, value = get_origin(hints[name]) or hints[name], content.get(name)
        if name in content and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"its {name} is no {kind.__name__}")
    checkpoint = Checkpoint(**{name: value for name, value in content.items() if name in _stored()})
    counts = checkpoint.epoch, checkpoint.episode, checkpoint.n_utterances
    if min(counts) < 0 or not all(type(name) is str for name in checkpoint.speakers):
        raise ValueError("its epoch, episode, n_utterances or speakers make no sense")
    # DataParallel and DistributedDataParallel put their own name before each parameter's.
    checkpoint.state_dict = {name.removeprefix("module."): value for name, value in checkpoint.state_dict.items()}
    for name, value in checkpoint.state_dict.items():
        _check_tensor(name, value)
    if checkpoint.class_vectors is not None and checkpoint.class_vectors.shape[1:] != (EMBEDDING_SIZE,):
        raise ValueError(f"{CLASS_VECTORS} has shape {tuple(checkpoint.class_vectors.shape)}")
    checkpoint.encoder()
    return checkpoint


def _check_tensor(name: str, value: Tensor) -> None:
    """Raise ValueError unless the value is a tensor of finite numbers that is no larger than what the file holds."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        raise ValueError(f"{name} is no plain tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} claims more numbers than the file holds")
    if not (value.is_floating_point() or name.endswith("num_batches_tracked")):
        raise ValueError(f"{name} holds {value.dtype}")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values")


def run_folder(model_path: str, n_folder: int) -> Path:
    """Return the folder of a training run."""
    return Path(model_path) / f"baseline_{n_folder:03d}"


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return where a run keeps the checkpoint of an epoch."""
    return folder / f"checkpoint_{epoch:03d}.pth"


def unfinished_path(folder: Path) -> Path:
    """Return where a run keeps its state within an epoch."""
    return folder / "unfinished_epoch.pth"


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of a run's folder by their epochs, in order; an error if it cannot be listed."""
    names = os.listdir(folder) if is_folder(folder) else []
    numbered = [(found[1], folder / name) for name in names if (found := re.fullmatch(r"checkpoint_(\d+)\.pth", name))]
    return dict(sorted((int(number), path) for number, path in numbered))


def holds_run(folder: Path) -> bool:
    """Tell whether a folder has a checkpoint of a run, whole or not."""
    return bool(numbered_checkpoints(folder)) or unfinished_path(folder).exists()


def newest_checkpoint(folder: Path, cp_num: int | None = None, within_epoch: bool = True) -> tuple[Path, Checkpoint]:
    """Return the checkpoint of epoch cp_num or, without it, the one of a run's folder with the most training.

    One saved within an epoch counts too unless `within_epoch` is false; it is used if no later epoch has a checkpoint.
    A damaged file is skipped with a warning. UserError if there is none.
    """
    if cp_num is not None:
        path = checkpoint_path(folder, cp_num)
        return path, load_checkpoint(path)
    numbered, unfinished = numbered_checkpoints(folder), unfinished_path(folder)
    within = _load_if_intact(unfinished) if within_epoch else None
    for epoch, path in reversed(numbered.items()):
        if within and epoch <= within.epoch:
            break
        if checkpoint := _load_if_intact(path):
            return path, checkpoint
    if within:
        return unfinished, within
    if any(path.exists() for path in (*numbered.values(), *([unfinished] if within_epoch else []))):
        raise UserError(f"{folder}: none of its checkpoints is whole; move them away to begin anew")
    raise UserError(f"{folder}: holds no checkpoint; train.py without --use_checkpoint makes a run's first")


def _load_if_intact(path: Path) -> Checkpoint | None:
    """Return a file's checkpoint; None if there is no such file or, with a warning, if it is damaged."""
    try:
        return load_checkpoint(path)
    except UserError as error:
        if path.exists():
            console.warn(f"{error}; another checkpoint of the run is used")
        return None


def _in_release_order(named: Iterable[tuple[str, Weight]], class_vectors: Weight | None) -> dict[str, Weight]:
    renamed = {_release_name(name): value for name, value in named}
    head = {PROJECTION: renamed.pop(PROJECTION)}
    if class_vectors is not None:
        head[CLASS_VECTORS] = class_vectors
    return head | renamed


def _release_name(name: str) -> str:
    ours, theirs = next(pair for pair in RENAMED if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)

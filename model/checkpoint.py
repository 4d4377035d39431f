"""The checkpoint file: its content, writing it atomically, reading it without running code from it.

The format is the one of the official code (Kye et al., 2020): {'epoch', 'state_dict', 'optimizer'} in
saved_model/baseline_NNN/checkpoint_EEE.pth, with the official parameter names. Our files have more fields, for an
exact resume and for the exclusion of training speakers from tests. Official files without these fields can be loaded.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from loss import EpisodeMetrics
from model.encoder import BACKBONES, EMBEDDING_SIZE, Bottleneck, Encoder
from system import console
from system.console import UserError
from system.files import is_folder, replacing

Weight = TypeVar("Weight", bound=Tensor)
MODEL_PATH = "saved_model"  # default folder of all runs
CLASS_VECTORS, PROJECTION = "weight", "fc1"  # names in the official state_dict
# Prefixes of our parameter names and of the official ones.
RENAMED = (("projection.weight", PROJECTION), ("norm.", "pretrained.avg_bn."), ("trunk.", "pretrained."))


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    epoch: int  # number of completed epochs
    state_dict: dict[str, Tensor]  # under the official names
    optimizer: dict = field(default_factory=dict)  # state of SGD, parameters in the order of state_dict
    # Official files have none of the fields below.
    scheduler: dict = field(default_factory=dict)
    speakers: list[str] = field(default_factory=list)  # training speakers in the order of their classes
    data_type: str = ""
    episode: int = 0  # episodes completed in the current epoch, over all ranks
    sums: dict[str, float] = field(default_factory=dict)  # sums of the metrics of these episodes, by name
    n_utterances: int = 0  # number of training utterances; 0 if unknown
    digest: str = field(default="", init=False)  # SHA-256 of the loaded file, in hexadecimal; not stored

    @property
    def backbone(self) -> str:
        """The name of the backbone, which the parameter names determine; ValueError for an unknown one."""
        depths = tuple(
            len({name.split(".")[2] for name in self.state_dict if name.startswith(f"pretrained.layer{stage}.")})
            for stage in (1, 2, 3, 4)
        )
        bottleneck = "pretrained.layer1.0.conv3.weight" in self.state_dict
        for name, layout in BACKBONES.items():
            if layout.depths == depths and (layout.block is Bottleneck) == bottleneck:
                return name
        found = ", ".join(list(self.state_dict)[:3])
        raise ValueError(f"its parameters ({found}, ...) do not belong to {', '.join(BACKBONES)}")

    @property
    def class_vectors(self) -> Tensor | None:
        """The class vectors (C, 256); None if the objective had none."""
        return self.state_dict.get(CLASS_VECTORS)

    def encoder(self) -> Encoder:
        """Return an encoder with these weights, float32 on the CPU; ValueError names missing and unexpected parameters.

        torch's random state and its defaults of the type and the device of new tensors do not matter and do not change.
        """
        with torch.device("meta"):  # samples no initial weights, which would change the random state
            encoder = Encoder(self.backbone).float()
        empty = encoder.state_dict()
        ours = {_official_name(name): name for name in empty}
        needed, given = set(ours), set(self.state_dict) - {CLASS_VECTORS}
        for kind, names in (("missing", needed - given), ("unexpected", given - needed)):
            if names:
                raise ValueError(f"{len(names)} {kind} parameters: {', '.join(sorted(names)[:3])}")
        copies = {
            ours[name]: self.state_dict[name].detach().to(empty[ours[name]].dtype, copy=True).contiguous()
            for name in given
        }
        encoder.load_state_dict(copies, assign=True)
        return encoder

    def encoder_alone(self) -> "Checkpoint":
        """Return the checkpoint without optimiser and class vectors, its matrices in half precision.

        It has a quarter of the size and suffices for recognition and evaluation. Vectors stay in float32 because the
        statistics of the batch norms exceed the range of half precision. ValueError if a weight exceeds it.
        """
        weights = {name: value for name, value in self.state_dict.items() if name != CLASS_VECTORS}
        halved = {name: value.half() if value.dim() > 1 else value for name, value in weights.items()}
        if not all(value.isfinite().all() for value in halved.values()):
            raise ValueError("a weight exceeds 65,504, the maximum of half precision")
        return Checkpoint(self.epoch, halved, speakers=self.speakers, data_type=self.data_type)


STORED = [field.name for field in fields(Checkpoint) if field.init]  # names of the fields in a file


def state_dict_of(encoder: Encoder, class_vectors: Tensor | None) -> dict[str, Tensor]:
    """Return copies of the weights and statistics on the CPU, with the official names in the official order."""
    state = _in_official_order(encoder.state_dict().items(), class_vectors)
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def parameters_of(encoder: Encoder, class_vectors: nn.Parameter | None) -> list[nn.Parameter]:
    """Return the parameters in the official order, on which the indices in the optimiser's state are based."""
    return list(_in_official_order(encoder.named_parameters(), class_vectors).values())


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: if the process is killed, the file is either the old one or the new one.

    OSError if it cannot be written.
    """
    serialised = io.BytesIO()  # torch.save to a path would report a full disk as an error of its zip writer
    torch.save({name: getattr(checkpoint, name) for name in STORED}, serialised)
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(serialised.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the content of a checkpoint file, official or ours, without running code from it.

    UserError if the file is missing or no checkpoint. Out-of-memory errors are raised unchanged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    blob = path.read_bytes()  # outside `try`: an OSError is a disk error, not a damaged checkpoint
    # A damaged or hostile file can make torch raise nearly any exception, here and below.
    try:
        content = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:
        if console.lacks_memory(error):
            raise
        reason = str(error).split(".", 1)[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: truncated or corrupt, or would run code when loaded ({reason})") from None
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        content = {"epoch": 0, "state_dict": content}  # a bare state_dict
    if not (isinstance(content, dict) and isinstance(content.get("state_dict"), dict)):
        found = ", ".join(map(str, content))[:200] if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: not a checkpoint: it contains no state_dict but {found}")
    try:
        checkpoint = _checked({"epoch": 0} | content)
    except Exception as error:
        if console.lacks_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"{path}: not a checkpoint of this encoder: {reason[:300]}") from None
    checkpoint.digest = hashlib.sha256(blob).hexdigest()
    return checkpoint


def _checked(content: dict) -> Checkpoint:
    """Return the checkpoint with a file's content; ValueError unless its tensors are finite and fit the encoder."""
    if "speakers" not in content:  # official files are saved within `epoch`, after its first update
        content["epoch"] = max(0, content["epoch"] - 1)
    if isinstance(sums := content.get("sums"), list):  # the format of earlier versions of this project
        content["sums"] = dict(zip(EpisodeMetrics._fields, sums, strict=False))
    hints = get_type_hints(Checkpoint)
    for name in STORED:
        kind, value = get_origin(hints[name]) or hints[name], content.get(name)
        if name in content and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{name} is no {kind.__name__}")
    checkpoint = Checkpoint(**{name: value for name, value in content.items() if name in STORED})
    counts = checkpoint.epoch, checkpoint.episode, checkpoint.n_utterances
    if min(counts) < 0 or not all(type(name) is str for name in checkpoint.speakers):
        raise ValueError("invalid epoch, episode, n_utterances or speakers")
    # DataParallel and DistributedDataParallel add this prefix.
    checkpoint.state_dict = {name.removeprefix("module."): value for name, value in checkpoint.state_dict.items()}
    for name, value in checkpoint.state_dict.items():
        _check_tensor(name, value)
    if checkpoint.class_vectors is not None and checkpoint.class_vectors.shape[1:] != (EMBEDDING_SIZE,):
        raise ValueError(f"{CLASS_VECTORS} has shape {tuple(checkpoint.class_vectors.shape)}")
    checkpoint.encoder()
    return checkpoint


def _check_tensor(name: str, value: Tensor) -> None:
    """Raise ValueError unless the value is a tensor of finite numbers that are all stored in the file."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        raise ValueError(f"{name} is no plain tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} has more numbers than the file contains")
    if not (value.is_floating_point() or name.endswith("num_batches_tracked")):
        raise ValueError(f"{name} has type {value.dtype}")
    if not value.isfinite().all():
        raise ValueError(f"{name} has NaN or infinite values")


def run_folder(model_path: str, n_folder: int) -> Path:
    """Return the folder of a training run."""
    return Path(model_path) / f"baseline_{n_folder:03d}"


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return the file of the checkpoint of an epoch."""
    return folder / f"checkpoint_{epoch:03d}.pth"


def unfinished_path(folder: Path) -> Path:
    """Return the file of the checkpoint that is saved within an epoch."""
    return folder / "unfinished_epoch.pth"


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoint files of a run's folder by epoch, in order; OSError if it cannot be listed."""
    names = os.listdir(folder) if is_folder(folder) else []
    numbered = [(found[1], folder / name) for name in names if (found := re.fullmatch(r"checkpoint_(\d+)\.pth", name))]
    return dict(sorted((int(number), path) for number, path in numbered))


def holds_run(folder: Path) -> bool:
    """Return whether a folder has a checkpoint of a run, intact or not."""
    return bool(numbered_checkpoints(folder)) or unfinished_path(folder).exists()


def newest_checkpoint(folder: Path, cp_num: int | None = None, within_epoch: bool = True) -> tuple[Path, Checkpoint]:
    """Return file and content of the checkpoint of epoch cp_num (None: the newest checkpoint) in a run's folder.

    The checkpoint saved within an epoch is considered if `within_epoch`. A damaged file is skipped with a warning.
    UserError if there is no intact one.
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
        raise UserError(f"{folder}: no intact checkpoint; move the damaged ones away and restart the training")
    advice = "start the training without --use_checkpoint" if within_epoch else "select a file with --checkpoint"
    raise UserError(f"{folder}: no checkpoint; select another run with --n_folder, or {advice}")


def _load_if_intact(path: Path) -> Checkpoint | None:
    """Return the content of a checkpoint file; None if it is missing or, with a warning, if it is damaged."""
    try:
        return load_checkpoint(path)
    except UserError as error:
        if path.exists():
            console.warn(f"{error}; skipped, an earlier checkpoint is used")
        return None


def _in_official_order(named: Iterable[tuple[str, Weight]], class_vectors: Weight | None) -> dict[str, Weight]:
    renamed = {_official_name(name): value for name, value in named}
    head = {PROJECTION: renamed.pop(PROJECTION)}
    if class_vectors is not None:
        head[CLASS_VECTORS] = class_vectors
    return head | renamed


def _official_name(name: str) -> str:
    ours, theirs = next(pair for pair in RENAMED if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)

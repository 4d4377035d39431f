"""Where and how the network runs: device, precision, loader processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from system import ranks
from system.console import UsageError

PRECISIONS = ("auto", "fp32", "bf16")


class Compute(NamedTuple):
    """Where and how a network runs."""

    device: torch.device
    dtype: torch.dtype  # of the trunk's arithmetic: float32, or bfloat16 by autocast; all else is float32
    num_workers: int  # processes that load features


def inference(device: str = "auto") -> Compute:
    """Return float32 on a device, without loader processes; `device` is a value of --device."""
    return Compute(select_device(device), torch.float32, 0)


def select_device(name: str, use_cuda: bool = True, gpu: int = 0) -> torch.device:
    """Return the device with a name: "auto" is CUDA if present and `use_cuda`, "cuda" is the GPU with number `gpu`.

    With several ranks on a machine, each rank uses the GPU of its local rank. UsageError if there is no such device.
    """
    several = ranks.local_world_size() > 1
    if several and name.startswith("cuda:"):
        raise UsageError(f"--device {name}: each rank of a machine has one GPU; use --device cuda")
    if name == "auto":
        name = "cuda" if use_cuda and torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{ranks.local_rank() if several else gpu}"
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda") or (device.type == "mps" and torch.backends.mps.is_available())
    except RuntimeError:
        known = False
    if not known:
        raise UsageError(f"--device {name}: no such device here; use auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UsageError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


_tf32_lock = threading.RLock()


@contextmanager
def without_tf32(device: torch.device) -> Iterator[None]:
    """Compute float32 on CUDA without TF32 in the block, so that embeddings agree between devices.

    torch has these settings for the complete process only, so the block admits one thread at a time on CUDA.
    """
    if device.type != "cuda":
        yield
        return
    with _tf32_lock:
        settings = _tf32_settings()
        before = [getattr(owner, name) for owner, name, _ in settings]
        try:
            for owner, name, off in settings:
                setattr(owner, name, off)
            yield
        finally:
            for (owner, name, _), value in zip(settings, before, strict=True):
                setattr(owner, name, value)


def _tf32_settings() -> list[tuple[Any, str, bool | str]]:
    """Return torch's settings of TF32: owner, name, and the value that disables it."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, bool | str]] = [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    try:
        for owner, name, _ in settings:
            getattr(owner, name)
    except RuntimeError:  # if the newer settings (torch 2.9) have been set, the older ones cannot be read
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return settings


def select_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of the trunk's arithmetic for one of PRECISIONS; auto: bfloat16 if the hardware has it.

    Processors with AVX512-bf16 or AMX have it; other processors emulate bfloat16 slowly. Versions of torch before 2.11
    cannot report these features, so auto is float32.
    """
    in_bf16 = precision == "bf16"
    if precision == "auto" and device.type == "cuda":
        in_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif precision == "auto" and device.type == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        in_bf16 = any(capabilities.get(feature, False) for feature in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if in_bf16 else torch.float32

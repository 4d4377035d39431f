"""Where and how the network runs: device, precision, seeds."""

import argparse
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from system import console, ranks
from system.console import UsageError
from system.workers import cpu_count

PRECISIONS = ("auto", "fp32", "bf16")


class Compute(NamedTuple):
    """Where and how a network runs."""

    device: torch.device
    dtype: torch.dtype  # of the trunk's arithmetic: float32, or bfloat16 by autocast; all else is float32
    num_workers: int  # processes that load features


def add_compute_arguments(parser: console.Parser, precision: str) -> None:
    """Add the flags of device, precision and loader processes; the default precision depends on the script."""
    add = parser.add_argument_group("hardware").add_argument
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: auto, CUDA or cpu)")
    add("--use_cuda", type=console.boolean, default=True, metavar="BOOL",
        help="CUDA with --device auto (default: True)")  # fmt: skip
    add("--gpu", type=console.integer(0), default=0, metavar="N", help="number of the GPU (default: 0)")
    add("--precision", choices=PRECISIONS, default=precision,
        help=f"precision of the ResNet; auto: bf16 if the device has it (default: {precision})")  # fmt: skip
    add("--num_workers", type=console.integer(0, 1000), metavar="N",
        help="processes that load data (default: 0 on a CPU, else one per core, up to 8)")  # fmt: skip
    add("--deterministic", type=console.boolean, default=False, metavar="BOOL",
        help="bit-identical results on GPUs of one kind, slower (default: False)")  # fmt: skip
    parser.works_if("use_cuda", lambda args: args.device == "auto", "unless --device is auto")
    parser.works_if("gpu", lambda args: args.device in ("auto", "cuda"), "unless --device is auto or cuda")
    parser.works_if("gpu", lambda args: args.use_cuda, "with --use_cuda False")
    parser.works_if("gpu", lambda _: ranks.local_world_size() == 1, "under torchrun, which gives each process its GPU")
    parser.works_if("gpu", lambda _: torch.cuda.is_available(), "on a machine without CUDA devices")


def choose_compute(args: argparse.Namespace) -> Compute:
    """Choose device, precision and loader processes by a script's flags, join the other ranks, and seed torch.

    A CUDA device becomes the current one, and TF32 is switched off: of the script's whole process.
    """
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts, so set before
        torch.use_deterministic_algorithms(True)
    device = _select_device(args.device, args.use_cuda, args.gpu)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    ranks.init()
    torch.manual_seed(args.seed)
    workers = args.num_workers
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, cpu_count())  # on the CPU the network needs the cores itself
    return Compute(device, _select_precision(args.precision, device), workers)


def inference(device: str = "auto") -> Compute:
    """Return the float32 setting for embedding on a device named as --device names it; nothing else changes."""
    return Compute(_select_device(device), torch.float32, 0)


def _select_device(name: str, use_cuda: bool = True, gpu: int = 0) -> torch.device:
    """Return the device that --device, --use_cuda and --gpu name; UsageError if it is not there.

    Each rank of a machine has a GPU of its own.
    """
    several = ranks.local_world_size() > 1
    if several and name.startswith("cuda:"):
        raise UsageError(f"--device {name}: the ranks of a machine have a GPU each; say --device cuda")
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
        raise UsageError(f"--device {name}: not a device here; auto, cpu, cuda, cuda:1 and mps may be")
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UsageError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


_tf32_lock, _n_without_tf32 = threading.Lock(), 0  # threads that are in a block
_tf32_before: list[tuple[Any, str, bool | str]] = []  # the settings that the first of them changed


@contextmanager
def without_tf32(device: torch.device) -> Iterator[None]:
    """Compute float32 on CUDA without TF32 in the block, so that embeddings agree between devices.

    torch has these settings for the whole process only; they are put back when the last thread leaves its block.
    """
    global _n_without_tf32
    if device.type != "cuda":
        yield
        return
    with _tf32_lock:
        _n_without_tf32 += 1
        if _n_without_tf32 == 1:
            for owner, name, off in _tf32_settings():
                if (before := getattr(owner, name)) != off:
                    _tf32_before.append((owner, name, before))
                    setattr(owner, name, off)
    try:
        yield
    finally:
        with _tf32_lock:
            _n_without_tf32 -= 1
            while _tf32_before and not _n_without_tf32:
                setattr(*_tf32_before.pop())


def _tf32_settings() -> list[tuple[Any, str, bool | str]]:
    """Return torch's settings of TF32: their owner, name and the value that switches it off."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, bool | str]] = [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    try:
        for owner, name, _ in settings:
            getattr(owner, name)
    except RuntimeError:  # the program uses the settings that torch 2.9 brought, beside which these cannot be read
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return settings


def _select_precision(choice: str, device: torch.device) -> torch.dtype:
    """Return the type of the trunk's arithmetic: bfloat16 on demand or, with auto, where the device computes in it.

    A processor does if it has AVX512-bf16 or AMX; elsewhere bfloat16 is emulated and slow. A torch that cannot tell
    what the processor has, as those before 2.11, counts as a no.
    """
    in_bf16 = choice == "bf16"
    if choice == "auto" and device.type == "cuda":
        in_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif choice == "auto" and device.type == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        in_bf16 = any(capabilities.get(feature, False) for feature in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if in_bf16 else torch.float32

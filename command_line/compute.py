"""The flags of device, precision, loader processes and seed, and what they set for the process of a script."""

import os
from argparse import Namespace

import torch

from system import ranks
from system.compute import PRECISIONS, Compute, select_device, select_dtype
from system.console import Parser, boolean, integer
from system.workers import cpu_count


def add_compute_arguments(parser: Parser, precision: str) -> None:
    """Add the flags of device, precision and loader processes; the default precision depends on the script."""
    add = parser.add_argument_group("hardware").add_argument
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: auto, CUDA or cpu)")
    add("--use_cuda", type=boolean, default=True, metavar="BOOL", help="use of CUDA with --device auto (default: True)")
    add("--gpu", type=integer(0), default=0, metavar="N", help="number of the GPU (default: 0)")
    add("--precision", choices=PRECISIONS, default=precision,
        help=f"precision of the ResNet; auto: bf16 if the device supports it (default: {precision})")  # fmt: skip
    add("--num_workers", type=integer(0, 1000), metavar="N",
        help="processes that load data (default: 0 on a CPU, else one per core, up to 8)")  # fmt: skip
    add("--deterministic", type=boolean, default=False, metavar="BOOL",
        help="bit-identical results on GPUs of one kind, slower (default: False)")  # fmt: skip
    parser.works_if("use_cuda", lambda args: args.device == "auto", "unless --device is auto")
    parser.works_if("gpu", lambda args: args.device in ("auto", "cuda"), "unless --device is auto or cuda")
    parser.works_if("gpu", lambda args: args.use_cuda, "with --use_cuda False")
    parser.works_if("gpu", lambda _: ranks.local_world_size() == 1, "under torchrun, which gives each process its GPU")
    parser.works_if("gpu", lambda _: torch.cuda.is_available(), "on a machine without CUDA devices")


def choose_compute(args: Namespace) -> Compute:
    """Return the device, precision and loader processes that the flags choose; join the other ranks, and seed torch.

    A CUDA device becomes the current one, and TF32 is disabled for the process.
    """
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts, so set before
        torch.use_deterministic_algorithms(True)
    device = select_device(args.device, args.use_cuda, args.gpu)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    ranks.init()
    torch.manual_seed(args.seed)
    workers = args.num_workers
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, cpu_count())  # on the CPU the network needs the cores itself
    return Compute(device, select_dtype(args.precision, device), workers)

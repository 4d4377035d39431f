"""The flags that name a checkpoint: shared by the evaluators and recognize.py."""

import argparse
from pathlib import Path

from model.checkpoint import MODEL_PATH, Checkpoint, load_checkpoint, newest_checkpoint, run_folder
from system import console


def add_checkpoint_arguments(common: console.Parser) -> None:
    """Add the flags that name a checkpoint."""
    add = common.add_argument
    add("--n_folder", type=console.integer(0), default=0, help="number of the run's folder, baseline_NNN (default: 0)")
    add("--cp_num", type=console.integer(0), help="epoch of the checkpoint (default: the newest)")
    add("--checkpoint", type=Path, metavar="FILE", help="checkpoint file, instead of --n_folder and --cp_num")
    add("--model_path", default=MODEL_PATH, help=f"folder of all runs (default: {MODEL_PATH})")
    for flag in ("n_folder", "cp_num", "model_path"):
        common.works_if(flag, lambda args: not args.checkpoint, "with --checkpoint")


def find_checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Load the checkpoint that the flags name; return its file and the checkpoint."""
    if args.checkpoint:
        return args.checkpoint, load_checkpoint(args.checkpoint)
    return newest_checkpoint(run_folder(args.model_path, args.n_folder), args.cp_num, within_epoch=False)

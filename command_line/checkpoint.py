"""The flags that select a checkpoint, for the evaluators and recognize.py."""

import argparse
from pathlib import Path

from model.checkpoint import MODEL_PATH, Checkpoint, load_checkpoint, newest_checkpoint, run_folder
from system import console


def add_checkpoint_arguments(parser: console.Parser, bundled: bool = False) -> None:
    """Add the flags that select a checkpoint; with `bundled`, their default is None, which means the bundled model."""
    run, folder = (None, None) if bundled else (0, MODEL_PATH)
    add = parser.add_argument_group("model").add_argument
    add("--n_folder", type=console.integer(0), default=run, metavar="N",
        help=f"number of the run in the folder baseline_NNN (default: {'none' if bundled else run})")  # fmt: skip
    add("--cp_num", type=console.integer(0), metavar="N", help="epoch of the checkpoint (default: the newest)")
    add("--checkpoint", type=Path, metavar="FILE",
        help=f"checkpoint file (default: {'the bundled model' if bundled else 'newest of --n_folder'})")  # fmt: skip
    add("--model_path", default=folder, metavar="DIR", help=f"folder of all runs (default: {MODEL_PATH})")
    for flag in ("n_folder", "cp_num", "model_path"):
        parser.works_if(flag, lambda args: not args.checkpoint, "with --checkpoint")


def find_checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Load the checkpoint that the flags select; return its path and the checkpoint."""
    if args.checkpoint:
        return args.checkpoint, load_checkpoint(args.checkpoint)
    return newest_checkpoint(run_folder(args.model_path, args.n_folder), args.cp_num, within_epoch=False)

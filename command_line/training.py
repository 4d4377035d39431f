"""The flags of train.py, except those of augmentation and hardware."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from command_line.augmentation import add_augmentation_arguments
from command_line.compute import add_compute_arguments
from configure import TRAINING_TREE
from loss import LOSS_TYPES
from model.checkpoint import MODEL_PATH
from model.encoder import BACKBONES
from system.console import Parser, boolean, integer, positive


def add_training_arguments(parser: Parser) -> None:
    """Add all flags."""
    add = parser.add_argument_group("data").add_argument
    add("--data_type", choices=sorted(TRAINING_TREE), default="vox2", help="training set (default: vox2)")
    add("--save_path", metavar="DIR", help="root of the data (default: $METASR_SAVE_PATH, else configure.py)")

    add = parser.add_argument_group("model").add_argument
    names = ", ".join(BACKBONES)
    add("--backbone", choices=list(BACKBONES), default="resnet34", metavar="NAME", help=f"{names} (default: resnet34)")
    add("--init", type=Path, metavar="FILE", help="checkpoint with the initial encoder (default: random weights)")
    add("--loss_type", choices=LOSS_TYPES, default="prototypical", help="objective (default: prototypical)")
    add(
        "--use_GC", type=boolean, default=True, metavar="BOOL", help="global classification in addition (default: True)"
    )

    add = parser.add_argument_group("episodes").add_argument
    add("--nb_class_train", type=integer(2), default=100, metavar="N", help="speakers per episode (default: 100)")
    add("--n_shot", type=integer(1), default=1, metavar="N", help="support utterances per speaker (default: 1)")
    add("--n_query", type=integer(0), default=2, metavar="N", help="query utterances per speaker (default: 2)")
    add(
        "--use_variable",
        type=boolean,
        default=True,
        metavar="BOOL",
        help="queries of 1 to 2 s; False: of 2 s (default: True)",
    )
    add("--seed", type=integer(0), default=100, metavar="N", help="seed of episodes and initial weights (default: 100)")

    add = parser.add_argument_group("optimisation").add_argument
    add(
        "--max_epoch",
        type=integer(0),
        default=300,
        metavar="N",
        help="number of epochs; 0: only save the untrained network (default: 300)",
    )
    add("--lr", type=positive, default=0.1, help="initial learning rate (default: 0.1)")
    add(
        "--scale_lr",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="learning rate multiplied by the number of ranks (default: False)",
    )
    add("--max_grad_norm", type=positive, metavar="NORM", help="gradient clipping to this norm (default: none)")
    add("--sync_bn", type=boolean, default=False, metavar="BOOL",
        help="batch-norm statistics over all ranks, CUDA only (default: False)")  # fmt: skip

    add = parser.add_argument_group("run folder, checkpoints and validation").add_argument
    add("--model_path", default=MODEL_PATH, metavar="DIR", help=f"folder of all runs (default: {MODEL_PATH})")
    add("--n_folder", type=integer(0), default=0, metavar="N", help="number NNN of baseline_NNN (default: 0)")
    add("--use_checkpoint", type=boolean_or_auto, default=False, metavar="BOOL|auto",
        help="resumption of the run; auto: only if the run exists (default: False)")  # fmt: skip
    add(
        "--cp_num",
        type=integer(0),
        metavar="N",
        help="epoch to resume from, with --use_checkpoint True (default: the last)",
    )
    add("--keep_last", type=integer(1), metavar="N", help="number of checkpoints to keep (default: all)")
    add("--save_every_minutes", type=positive, metavar="M", help="minutes between saves in an epoch (default: none)")
    add("--val_trials", type=Path, metavar="FILE", help="trial list whose EER is logged (default: no validation)")
    add("--val_every", type=integer(1), default=1, metavar="N", help="epochs between validations (default: 1)")
    add_augmentation_arguments(parser)
    add_compute_arguments(parser, precision="auto")
    parser.needs("val_every", "val_trials")
    parser.works_if("val_trials", lambda args: args.max_epoch, "with --max_epoch 0")
    parser.works_if("cp_num", lambda args: args.use_checkpoint is True, "without --use_checkpoint True")
    parser.works_if("init", lambda args: args.use_checkpoint is not True, "with --use_checkpoint True, which resumes")
    for flag in ("use_GC", "use_variable"):
        parser.works_if(flag, partial(_is_false_or_prototypical, flag), "with --loss_type softmax")


def _is_false_or_prototypical(flag: str, args: Namespace) -> bool:
    return args.loss_type == "prototypical" or not getattr(args, flag)


def boolean_or_auto(text: str) -> bool | str:
    """Parse True, False or auto."""
    return "auto" if text.lower() == "auto" else boolean(text)

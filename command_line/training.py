"""The flags of train.py."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from command_line.augmentation import add_augmentation_arguments
from configure import TRAINING_TREE
from loss import LOSS_TYPES
from model.checkpoint import MODEL_PATH
from model.encoder import BACKBONES
from system.compute import add_compute_arguments
from system.console import Parser, boolean, integer, positive


def add_training_arguments(parser: Parser) -> None:
    """Add all flags."""
    add = parser.add_argument
    add("--loss_type", choices=LOSS_TYPES, default="prototypical", help="default: prototypical")
    add(
        "--use_GC",
        type=boolean,
        default=True,
        help="add global classification to prototypical (default: True)",
    )
    add("--n_shot", type=integer(1), default=1, help="support utterances per speaker and episode (default: 1)")
    add("--n_query", type=integer(0), default=2, help="query utterances per speaker and episode (default: 2)")
    add("--use_variable", type=boolean, default=True, help="prototypical queries of 1 to 2 s (default: True)")
    add("--nb_class_train", type=integer(2), default=100, help="speakers per episode (default: 100)")
    add("--data_type", choices=sorted(TRAINING_TREE), default="vox2", help="training set (default: vox2)")
    add("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    add("--model_path", default=MODEL_PATH, help=f"folder of all runs (default: {MODEL_PATH})")
    add("--n_folder", type=integer(0), default=0, help="number of the run's folder, baseline_NNN (default: 0)")
    add("--use_checkpoint", type=boolean_or_auto, default=False, metavar="True|False|auto",
        help="resume the run in that folder; auto: start it if there is none (default: False)")  # fmt: skip
    add("--cp_num", type=integer(0), help="epoch to resume from with --use_checkpoint True (default: the last)")
    add("--init", type=Path, metavar="FILE", help="checkpoint whose encoder a new run starts from")
    add("--backbone", choices=list(BACKBONES), default="resnet34", help="default: resnet34")
    add("--max_epoch", type=integer(0), default=300, help="epochs; 0 writes the untrained network (default: 300)")
    add("--lr", type=positive, default=0.1, help="initial learning rate (default: 0.1)")
    add("--scale_lr", type=boolean, default=False, help="multiply --lr by the number of ranks (default: False)")
    add("--sync_bn", type=boolean, default=False, help="batch-norm statistics over all ranks, on CUDA (default: False)")
    add("--max_grad_norm", type=positive, help="maximum norm of the gradient (default: no clipping)")
    add("--seed", type=integer(0), default=100, help="random seed of weights and episodes (default: 100)")
    add("--keep_last", type=integer(1), metavar="K", help="checkpoints of this run to keep (default: all)")
    add("--save_every_minutes", type=positive, metavar="M", help="interval of saves within an epoch (default: none)")
    add("--val_trials", type=Path, metavar="FILE", help="trial list whose EER is logged, in float32, as by EER_full.py")
    add("--val_every", type=integer(1), default=1, help="epochs between two validations (default: 1)")
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
    """Read True, False or auto."""
    return "auto" if text.lower() == "auto" else boolean(text)

"""Train a speaker encoder: softmax, prototypical, or prototypical with global classification (the paper's).

    python train.py --use_GC True --n_shot 1 --n_query 2 --use_variable True --nb_class_train 100
    python train.py --use_GC False
    python train.py --loss_type softmax --use_GC False --n_shot 1 --n_query 0 --use_variable False --nb_class_train 256
    python train.py --use_checkpoint True --n_folder 0  # goes on where that run stopped
    python train.py --use_checkpoint auto  # begins or goes on: for schedulers that run a command again
    python train.py --augment noise,reverb,babble  # crops disturbed anew every time; codec, speed, specaugment, too
    torchrun --nproc_per_node=4 train.py --scale_lr True  # on four GPUs

The first is the default. Writes saved_model/baseline_NNN/: a checkpoint_EEE.pth and a row of log.csv an epoch, and
config.json. Ctrl-C or SIGTERM saves and stops.
"""

import argparse
import math
import os
from contextlib import nullcontext
from pathlib import Path

import torch

from configure import TRAINING_TREE, TREES, save_root
from dataset.episodes import TrainingEpisodes
from dataset.index import FeatureIndex
from feat_extract.augmentation import AugmentedCrops, add_augmentation_arguments, choose_augmentation
from loss import LOSS_TYPES, Objective, Terms
from model.checkpoint import MODEL_PATH, checkpoint_path, holds_run, load_checkpoint, newest_checkpoint, run_folder
from model.encoder import EMBEDDING_SIZE, Encoder
from model.resnet import BACKBONES
from system import console, ranks
from system.compute import Compute, add_compute_arguments, choose_compute
from system.console import UsageError, UserError
from system.files import locked, remove_unfinished
from training import logbook
from training.loop import EpisodeLoss, EpochResult, Run
from training.saver import Saver, set_later_aside
from training.validation import Validation


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line; UsageError for flags that contradict one another."""
    parser = console.Parser(__doc__)
    add = parser.add_argument
    add("--loss_type", choices=LOSS_TYPES, default="prototypical", help="default: prototypical")
    add("--use_GC", type=console.boolean, default=True, help="add global classification to prototypical (True)")
    add("--n_shot", type=console.integer(1), default=1, help="support utterances of a speaker in an episode (1)")
    add("--n_query", type=console.integer(0), default=2, help="query utterances of a speaker in an episode (2)")
    add("--use_variable", type=console.boolean, default=True, help="prototypical queries of 1 to 2 s (True)")
    add("--nb_class_train", type=console.integer(2), default=100, help="speakers of an episode (100)")
    add("--data_type", choices=sorted(TRAINING_TREE), default="vox2", help="the training speakers (vox2)")
    add("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    add("--model_path", default=MODEL_PATH, help=f"folder of all runs ({MODEL_PATH})")
    add("--n_folder", type=console.integer(0), default=0, help="number of this run's folder, baseline_NNN (0)")
    add("--use_checkpoint", type=boolean_or_auto, default=False, metavar="True|False|auto",
        help="go on with the run in that folder; auto: begin if there is none (False)")  # fmt: skip
    add("--cp_num", type=console.integer(0), help="with --use_checkpoint True: the epoch to go on from (the newest)")
    add("--init", type=Path, metavar="FILE", help="start a new run from this checkpoint's encoder")
    add("--backbone", choices=list(BACKBONES), default="resnet34", help="default: resnet34")
    add("--max_epoch", type=console.integer(0), default=300, help="epochs (300); 0 writes the untrained network")
    add("--lr", type=console.positive, default=0.1, help="learning rate at the start (0.1)")
    add("--scale_lr", type=console.boolean, default=False, help="lr times the number of torchrun's ranks (False)")
    add("--sync_bn", type=console.boolean, default=False, help="batch statistics over all ranks, on CUDA (False)")
    add("--max_grad_norm", type=console.positive, help="clip gradients to this norm (no clipping)")
    add("--seed", type=console.integer(0), default=100, help="of the weights and the episodes (100)")
    add("--keep_last", type=console.integer(1), metavar="K", help="keep the last K checkpoints only (all)")
    add("--save_every_minutes", type=console.positive, metavar="M", help="also save within an epoch (at its end only)")
    add("--val_trials", type=Path, metavar="FILE", help="score this trial list's EER while training")
    add("--val_every", type=console.integer(1), default=1, help="epochs between two validations (1)")
    add_augmentation_arguments(parser)
    add_compute_arguments(parser, precision="auto")
    args = parser.parse_args(argv)
    if args.loss_type == "prototypical" and args.n_query == 0:
        raise UsageError("--n_query 0: a prototypical episode needs queries; give 1 or more, or --loss_type softmax")
    if args.use_checkpoint is True and args.init:
        raise UsageError("--init starts a new run, --use_checkpoint True goes on with one: give one of them")
    if args.cp_num is not None and args.use_checkpoint is not True:
        raise UsageError(f"--cp_num {args.cp_num}: an epoch to go on from; add --use_checkpoint True")
    return args


def boolean_or_auto(text: str) -> bool | str:
    """Read True, False or auto."""
    return "auto" if text.lower() == "auto" else console.boolean(text)


def main(argv: list[str]) -> int:
    """Train until --max_epoch; return the exit status."""
    args = parse_args(argv)
    augmentation = choose_augmentation(args)
    compute = choose_compute(args)
    root, folder = save_root(args.save_path), run_folder(args.model_path, args.n_folder)
    features = FeatureIndex([root / TREES[TRAINING_TREE[args.data_type]].feat])
    episodes = TrainingEpisodes(
        features,
        n_way=args.nb_class_train,
        n_shot=args.n_shot,
        n_query=args.n_query,
        use_variable=args.use_variable and args.loss_type == "prototypical",  # as in the release
        seed=args.seed,
        augmenter=AugmentedCrops(augmentation, root, features) if augmentation.kinds else None,
    )
    validation = Validation(args.val_trials, root, compute) if args.val_trials else None  # now: the list may be bad
    model = first_model(args, episodes.n_classes, features.speakers, folder)
    if args.sync_bn:
        if compute.device.type != "cuda":
            raise UsageError("--sync_bn True: torch synchronises batch norm on CUDA only")
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    lr = args.lr * (ranks.world_size() if args.scale_lr else 1)
    run = Run(model, episodes, compute, lr, args.max_grad_norm)
    describe(args, features, episodes, compute)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".train.lock") if ranks.is_first() else nullcontext():
        begin(run, folder, args, features.speakers)
        train(run, folder, args, features.speakers, validation)
    print(f"checkpoints up to epoch {run.epoch} are in {folder}")
    return 0


def train(run: Run, folder: Path, args: argparse.Namespace, speakers: list[str], validation: Validation | None) -> None:
    """Train until --max_epoch: each epoch a row of log.csv, a checkpoint and, if it is due, a validation."""
    facts = {"speakers": speakers, "data_type": args.data_type}
    if args.max_epoch == run.epoch == run.episode == 0:
        run.save(checkpoint_path(folder, 0), **facts)
    saver = Saver(run, folder, facts, args.keep_last, args.save_every_minutes)

    def after_episode() -> None:
        if (run.epoch, run.episode) == (0, ranks.world_size()):
            print(f"first loss: {describe_terms(run.mean_terms())}")
        saver.after_episode()

    def validate() -> None:
        if not validation or run.episode or run.epoch % args.val_every:
            return
        if ranks.broadcast_object(lambda: logbook.lacks_eer(folder, run.epoch)):
            with saver.stopping_at_once(f"while validating epoch {run.epoch}"):
                eer = 100 * validation(run.model.encoder)
            if ranks.is_first():
                print(f"epoch {run.epoch}: validation EER {eer:.2f} %", flush=True)
                logbook.add_eer(folder, run.epoch, eer)

    validate()  # the run before may have been stopped while it validated
    while run.epoch < args.max_epoch:
        result = run.train_epoch(after_episode)
        report(folder, run.epoch, result)
        saver.after_epoch()  # after the row: an epoch that has its checkpoint has its row, whenever the run is killed
        validate()


def first_model(args: argparse.Namespace, n_classes: int, speakers: list[str], folder: Path) -> EpisodeLoss:
    """Return the network to start from: a new one, or --init's encoder and its class vectors of the same speakers.

    Where the folder holds a run --init is not read: it goes on from its own checkpoint, or is refused.
    """
    objective = Objective(args.loss_type, args.use_GC, n_classes, EMBEDDING_SIZE)
    if not args.init or holds_run(folder):
        return EpisodeLoss(Encoder(args.backbone), objective)
    given = load_checkpoint(args.init)
    if given.backbone != args.backbone:
        raise UsageError(f"--init {args.init}: its backbone is {given.backbone}; add --backbone {given.backbone}")
    learnt, stored = objective.class_vectors, given.class_vectors
    if learnt is not None and stored is not None and stored.shape == learnt.shape and given.speakers == speakers:
        learnt.data.copy_(stored)
        print(f"{args.init}: the same speakers; starting from its class vectors too")
    return EpisodeLoss(given.encoder(), objective)


def begin(run: Run, folder: Path, args: argparse.Namespace, speakers: list[str]) -> None:
    """Make the run's folder and config.json, or with --use_checkpoint put the run where its checkpoint left it."""
    begun = ranks.broadcast_object(lambda: holds_run(folder))
    flags = vars(args)
    if begun if args.use_checkpoint == "auto" else args.use_checkpoint:
        path, checkpoint = ranks.broadcast_object(lambda: newest_checkpoint(folder, args.cp_num))
        if checkpoint.backbone != args.backbone:
            raise UserError(f"{path}: its backbone is {checkpoint.backbone}; add --backbone {checkpoint.backbone}")
        if checkpoint.speakers and checkpoint.speakers != speakers:
            raise UserError(f"{path}: trained on other speakers than the data's; --init {path} starts from its encoder")
        try:
            run.restore(checkpoint)
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:  # states from elsewhere
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise UserError(f"{path}: does not fit these flags and data ({reason})") from None
        if args.cp_num is not None and ranks.is_first():
            set_later_aside(folder, args.cp_num)
        flags = logbook.flags_in_force(folder, flags)
        print(f"going on from {path}: {run.epoch} epochs and {run.episode} episodes are done")
    elif begun:
        raise UserError(f"{folder}: holds a run; go on with it by --use_checkpoint True, or choose another --n_folder")
    if ranks.is_first():
        remove_unfinished(folder, os.listdir(folder))
        logbook.write_config(folder, flags, speakers)


def describe(args: argparse.Namespace, features: FeatureIndex, episodes: TrainingEpisodes, compute: Compute) -> None:
    """Say what is trained on what, and what a network that guesses would score."""
    print(
        f"{len(features)} utterances of {len(features.speakers)} speakers; {episodes.per_epoch} episodes an epoch; "
        f"{args.backbone} on {compute.device} in {str(compute.dtype).removeprefix('torch.')}"
        + (f"; {ranks.world_size()} ranks share the episodes" if ranks.world_size() > 1 else "")
    )
    if args.augment:
        print(f"crops are augmented: {', '.join(args.augment)}; {episodes.n_classes} classes of speaker and speed")
    if episodes.excluded:
        needed = args.n_shot + args.n_query
        print(f"{episodes.excluded} speakers have fewer than {needed} utterances and are in no episode")
    kinds = []
    if args.loss_type == "prototypical":
        kinds.append(("episodic", args.nb_class_train))
    if args.loss_type == "softmax" or args.use_GC:
        kinds.append(("global", episodes.n_classes))
    for kind, n_classes in kinds:
        print(f"chance, {kind}: accuracy {100 / n_classes:.2f} %, loss ln {n_classes} = {math.log(n_classes):.3f}")


def describe_terms(terms: Terms) -> str:
    """Return the losses and accuracies that the objective has."""
    parts = [
        f"{kind} {loss:.3f} ({100 * accuracy:.1f} % right)"
        for kind, loss, accuracy in (
            ("episodic", terms.episodic_loss, terms.episodic_accuracy),
            ("global", terms.global_loss, terms.global_accuracy),
        )
        if not math.isnan(loss)
    ]
    return f"{terms.loss:.3f} = {' + '.join(parts)}"


def report(folder: Path, epoch: int, result: EpochResult) -> None:
    """Print the epoch's line and put its row into log.csv; the first rank does."""
    if not ranks.is_first():
        return
    print(
        f"epoch {epoch}: loss {describe_terms(result.terms)}, lr {result.lr:g}, "
        f"{result.utterances_per_second:.1f} utterances/s, {100 * result.waiting:.1f} % waiting for data",
        flush=True,
    )
    row = {"epoch": epoch, **result.terms._asdict(), **result._asdict(), logbook.EER: math.nan}
    del row["terms"]
    logbook.add_row(folder, row)


if __name__ == "__main__":
    console.run(main)

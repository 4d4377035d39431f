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
from dataset.trials import read_trials
from feat_extract.augmentation import Augmentation, AugmentedCrops, add_augmentation_arguments, choose_augmentation
from loss import LOSS_TYPES, Objective, Terms
from model.checkpoint import (
    MODEL_PATH,
    Checkpoint,
    checkpoint_path,
    holds_run,
    load_checkpoint,
    newest_checkpoint,
    run_folder,
)
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
    add("--keep_last", type=console.integer(1), metavar="K", help="keep the last K checkpoints of this run only (all)")
    add("--save_every_minutes", type=console.positive, metavar="M", help="also save within an epoch (at its end only)")
    add("--val_trials", type=Path, metavar="FILE", help="log the float32 EER of this trial list, as EER_full.py")
    add("--val_every", type=console.integer(1), default=1, help="epochs between two validations (1)")
    add_augmentation_arguments(parser)
    add_compute_arguments(parser, precision="auto")
    parser.needs("val_every", "val_trials")
    parser.works_if("val_trials", lambda args: args.max_epoch, "with --max_epoch 0")
    parser.works_if("use_GC", lambda args: not args.use_GC or args.loss_type != "softmax", "with --loss_type softmax")
    parser.works_if(
        "use_variable", lambda args: not args.use_variable or args.loss_type != "softmax", "with --loss_type softmax"
    )
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
    if args.sync_bn and compute.device.type != "cuda":
        raise UsageError("--sync_bn True: torch synchronises batch norm on CUDA only")
    folder = run_folder(args.model_path, args.n_folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: not writable; change its permissions or choose another --model_path")
    with locked(folder / ".train.lock") if ranks.is_first() else nullcontext():
        run = train_in(folder, args, augmentation, compute)
    print(f"checkpoints up to epoch {run.epoch} are in {folder}")
    return 0


def train_in(folder: Path, args: argparse.Namespace, augmentation: Augmentation, compute: Compute) -> Run:
    """Prepare a run in its folder and train it; return it."""
    # What can be refused without the data is refused first: indexing a large corpus takes minutes.
    start = ranks.broadcast_object(lambda: choose_start(folder, args))
    given = load_init(args) if args.init and not start else None
    trials = read_trials(args.val_trials) if args.val_trials else None
    root = save_root(args.save_path)
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
    validation = Validation(trials, root, compute, features.speakers) if trials else None
    model = first_model(args, episodes.n_classes, features.speakers, given)
    if args.sync_bn:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    lr = args.lr * (ranks.world_size() if args.scale_lr else 1)
    run = Run(model, episodes, compute, lr, args.max_grad_norm)
    describe(args, features, episodes, compute)
    begin(run, folder, args, features, start, compute)
    train(run, folder, args, features, validation)
    return run


def train(
    run: Run, folder: Path, args: argparse.Namespace, features: FeatureIndex, validation: Validation | None
) -> None:
    """Train until --max_epoch: each epoch a row of log.csv, a checkpoint and, if it is due, a validation."""
    facts = {"speakers": features.speakers, "data_type": args.data_type, "n_utterances": len(features)}
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


def choose_start(folder: Path, args: argparse.Namespace) -> tuple[Path, Checkpoint] | None:
    """Return the checkpoint to resume from and its file, None for a new run.

    UserError if the folder holds a run that is not to be resumed, or a checkpoint is missing or does not fit the flags.
    """
    begun = holds_run(folder)
    if not (begun if args.use_checkpoint == "auto" else args.use_checkpoint):
        if begun:
            raise UserError(
                f"{folder}: holds a run; go on with it by --use_checkpoint True, or choose another --n_folder"
            )
        return None
    path, checkpoint = newest_checkpoint(folder, args.cp_num)
    if checkpoint.backbone != args.backbone:
        raise UserError(f"{path}: its backbone is {checkpoint.backbone}; add --backbone {checkpoint.backbone}")
    has, trains = checkpoint.class_vectors is not None, trains_class_vectors(args)
    if checkpoint.speakers and has != trains:  # official files always have them
        reason = f"it has {'' if has else 'no '}class vectors, these flags train {'some' if trains else 'none'}"
        raise UserError(f"{path}: does not fit --loss_type and --use_GC ({reason}); repeat the flags of its run")
    return path, checkpoint


def load_init(args: argparse.Namespace) -> Checkpoint:
    """Return --init's checkpoint; UsageError if it is of another backbone."""
    given = load_checkpoint(args.init)
    if given.backbone != args.backbone:
        raise UsageError(f"--init {args.init}: its backbone is {given.backbone}; add --backbone {given.backbone}")
    return given


def trains_class_vectors(args: argparse.Namespace) -> bool:
    """Tell whether the objective has a loss over all training speakers."""
    return args.loss_type == "softmax" or args.use_GC


def first_model(args: argparse.Namespace, n_classes: int, speakers: list[str], given: Checkpoint | None) -> EpisodeLoss:
    """Return the network to start from: a new one, or --init's encoder and its class vectors of the same speakers."""
    objective = Objective(args.loss_type, args.use_GC, n_classes, EMBEDDING_SIZE)
    if not given:
        return EpisodeLoss(Encoder(args.backbone), objective)
    learnt, stored = objective.class_vectors, given.class_vectors
    if learnt is not None and stored is not None and stored.shape == learnt.shape and given.speakers == speakers:
        learnt.data.copy_(stored)
        print(f"{args.init}: the same speakers; starting from its class vectors too")
    return EpisodeLoss(given.encoder(), objective)


def begin(
    run: Run,
    folder: Path,
    args: argparse.Namespace,
    features: FeatureIndex,
    start: tuple[Path, Checkpoint] | None,
    compute: Compute,
) -> None:
    """Write config.json; with a checkpoint to start from, put the run first where that left it."""
    if start:
        restore(run, *start, features)
    if not ranks.is_first():
        return
    flags, threads = vars(args), torch.get_num_threads() if compute.device.type == "cpu" else None
    if start:
        if args.cp_num is not None:
            set_later_aside(folder, args.cp_num)
        flags = logbook.flags_in_force(folder, flags, threads)
        print(f"going on from {start[0]}: {run.epoch} epochs and {run.episode} episodes are done")
    remove_unfinished(folder, os.listdir(folder))
    logbook.write_config(folder, flags, features.speakers, threads)


def restore(run: Run, path: Path, checkpoint: Checkpoint, features: FeatureIndex) -> None:
    """Put a run where a checkpoint left it; warn if the data has another number of utterances now.

    UserError if the checkpoint does not fit the flags and data.
    """
    if checkpoint.speakers and checkpoint.speakers != features.speakers:
        raise UserError(f"{path}: trained on other speakers than the data's; --init {path} starts from its encoder")
    n_before, n_now = checkpoint.n_utterances, len(features)
    changed = f"trained on {n_before:,} utterances, the data now has {n_now:,}" if n_before not in (0, n_now) else ""
    try:
        run.restore(checkpoint)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:  # states from elsewhere
        if console.lacks_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        reasons = "; ".join(filter(None, [reason, changed]))
        raise UserError(f"{path}: does not fit these flags and data ({reasons})") from None
    if changed:
        console.warn(f"{path}: {changed}; training continues with these. Are files missing?")


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
    if trains_class_vectors(args):
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
    speed = f", {result.utterances_per_second:.1f} utterances/s, {100 * result.waiting:.1f} % waiting for data"
    if math.isnan(result.waiting):
        speed = ""
    print(f"epoch {epoch}: loss {describe_terms(result.terms)}, lr {result.lr:g}{speed}", flush=True)
    row = {"epoch": epoch, **result.terms._asdict(), **result._asdict(), logbook.EER: math.nan}
    del row["terms"]
    logbook.add_row(folder, row)


if __name__ == "__main__":
    console.run(main)

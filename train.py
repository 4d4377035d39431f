"""Train a speaker encoder with the softmax loss, the prototypical loss, or the
prototypical loss and global classification (the default).

    python train.py --save_path DATA --n_folder 1
    python train.py --save_path DATA --n_folder 1 --use_checkpoint True
    torchrun --nproc_per_node=4 train.py --save_path DATA --scale_lr True

The second command resumes the first. Each epoch writes checkpoint_EEE.pth and a
row of log.csv to saved_model/baseline_NNN (--n_folder NNN). After
Ctrl-C or SIGTERM, the run is saved before it stops. docs/training.md explains
the flags.
"""

import math
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from command_line.augmentation import choose_augmentation
from command_line.compute import choose_compute
from command_line.training import add_training_arguments
from configure import TRAINING_TREE, TREES, save_root
from dataset.episodes import Episode, TrainingEpisodes, episode_order
from dataset.index import FeatureIndex
from dataset.trials import read_trials
from feat_extract.augmentation import Augmentation, AugmentedCrops
from loss import Objective
from model.checkpoint import run_folder, unfinished_path
from model.encoder import EMBEDDING_SIZE, Encoder
from system import console, ranks
from system.compute import Compute
from system.console import UsageError
from system.files import create_writable, locked
from system.loading import Loader
from training import logbook
from training.checkpoints import clean_folder, find_start, load_init, resume, save_epoch, save_state, take_class_vectors
from training.report import check_finite, describe_epoch, describe_metrics, describe_training
from training.step import EpisodeLoss, TrainingState, end_epoch, train_step
from training.validation import Validation

LOG_INTERVAL = 20  # episodes between copies of the losses to the CPU; each copy waits for the device


def parse_args(argv: list[str]) -> Namespace:
    """Read the command line; UsageError for flags that contradict one another."""
    parser = console.Parser(__doc__)
    add_training_arguments(parser)
    args = parser.parse_args(argv)
    if args.loss_type == "prototypical" and args.n_query == 0:
        raise UsageError("--n_query 0: a prototypical episode needs queries; give 1 or more, or --loss_type softmax")
    return args


def main(argv: list[str]) -> int:
    """Train until --max_epoch; return the exit status."""
    args = parse_args(argv)
    augmentation = choose_augmentation(args)
    compute = choose_compute(args)
    if args.sync_bn and compute.device.type != "cuda":
        raise UsageError("--sync_bn True: torch synchronises batch norm on CUDA only")
    folder = run_folder(args.model_path, args.n_folder)
    create_writable(folder, "--model_path")
    with locked(folder / ".train.lock") if ranks.is_first() else nullcontext():
        state, episodes, validation = prepare(args, folder, augmentation, compute)
        train(args, folder, state, episodes, validation)
    print(f"checkpoints up to epoch {state.epoch} are in {folder}")
    return 0


def prepare(
    args: Namespace, folder: Path, augmentation: Augmentation, compute: Compute
) -> tuple[TrainingState, TrainingEpisodes, Validation | None]:
    """Return the new or resumed state of the training, the training data, and the validation if there is one."""
    # Errors that do not depend on the data come first: indexing a large corpus takes minutes.
    with_class_vectors = args.use_GC or args.loss_type == "softmax"
    start = ranks.broadcast_object(
        lambda: find_start(folder, args.use_checkpoint, args.cp_num, args.backbone, with_class_vectors)
    )
    flags, hardware = vars(args), logbook.hardware_of(compute.device)
    if start and ranks.is_first():
        flags = logbook.compare_config(folder, flags, hardware)
    init = load_init(args.init, args.backbone) if args.init and not start else None
    trials = read_trials(args.val_trials) if args.val_trials else None

    root = save_root(args.save_path)
    with ranks.main_process_first():  # the other ranks read the index that the first one has written
        features = FeatureIndex([root / TREES[TRAINING_TREE[args.data_type]].feat])
        validation = Validation(trials, root, compute, features.speakers) if trials else None
    episodes = TrainingEpisodes(
        features,
        n_way=args.nb_class_train,
        n_shot=args.n_shot,
        n_query=args.n_query,
        use_variable=args.use_variable and args.loss_type == "prototypical",  # as in the official code
        seed=args.seed,
        n_ranks=ranks.world_size(),
        augmenter=AugmentedCrops(augmentation, root, features) if augmentation.kinds else None,
    )
    objective = Objective(args.loss_type, args.use_GC, episodes.n_classes, EMBEDDING_SIZE)
    model = EpisodeLoss(init.encoder() if init else Encoder(args.backbone), objective)
    if init and take_class_vectors(init, objective, features.speakers):
        print(f"{args.init}: trained on the same speakers; its class vectors are used, too")
    if args.sync_bn:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    lr = args.lr * (ranks.world_size() if args.scale_lr else 1)
    metadata = {"speakers": features.speakers, "data_type": args.data_type, "n_utterances": len(features)}
    state = TrainingState(model, compute, lr, **metadata)
    print(describe_training(state, episodes, args.backbone, args.augment))
    if start:
        resume(state, *start, episodes.per_epoch)
        print(f"resuming from {start[0]}: {state.epoch} epochs and {state.episode} episodes completed")
    if ranks.world_size() > 1:
        # Each rank computes batch-norm statistics of its batch, as one GPU does; those of the first rank are saved.
        state.replica = DistributedDataParallel(state.model)
    if ranks.is_first():
        clean_folder(folder, args.cp_num)
        if not start or state.epoch < args.max_epoch:
            logbook.write_config(folder, flags, hardware, features.speakers)
    return state, episodes, validation


def train(
    args: Namespace, folder: Path, state: TrainingState, episodes: TrainingEpisodes, validation: Validation | None
) -> None:
    """Train until --max_epoch; log, save and validate after each epoch."""
    stop = StopSignal()
    if args.max_epoch == state.epoch == state.episode == 0 and ranks.is_first():
        save_epoch(folder, state, args.keep_last)
    validate(args, folder, state, validation, stop)  # after resuming: a signal may have stopped the last validation
    if state.epoch >= args.max_epoch:
        return
    done = state.epoch, state.episode
    order = episode_order(episodes.per_epoch, *done, args.max_epoch, ranks.rank(), ranks.world_size())
    on_cuda = state.compute.device.type == "cuda"
    loader = Loader(episodes, state.compute.num_workers, episodes.max_bytes, pin_memory=on_cuda)
    with loader.batches(order) as batches:
        while state.epoch < args.max_epoch:
            row = train_epoch(args, folder, state, episodes, batches, stop)
            if ranks.is_first():
                print(describe_epoch(row), flush=True)
                logbook.add_row(folder, row)  # before the checkpoint: after a kill, each checkpoint has a row
                save_epoch(folder, state, args.keep_last)
            exit_if(ranks.all_reduce_max([stop.number])[0], f"after epoch {state.epoch}")
            validate(args, folder, state, validation, stop)


def train_epoch(
    args: Namespace,
    folder: Path,
    state: TrainingState,
    episodes: TrainingEpisodes,
    batches: Iterator[Episode],
    stop: "StopSignal",
) -> dict[str, float]:
    """Train the rest of the epoch and return its row of log.csv; save every --save_every_minutes and after a signal."""
    n_ranks, lr, n_before = ranks.world_size(), state.lr, state.episode
    started = saved = time.perf_counter()
    waited, period = 0.0, 60 * (args.save_every_minutes or math.inf)
    state.model.train()
    desc = f"epoch {state.epoch + 1}"
    with console.progress(total=episodes.per_epoch, initial=state.episode, unit="episode", desc=desc) as bar:
        while state.episode + n_ranks <= episodes.per_epoch:
            asked = time.perf_counter()
            episode = next(batches)
            waited += time.perf_counter() - asked
            train_step(state, episode, args.max_grad_norm)
            bar.update(n_ranks)
            signalled, save = ranks.all_reduce_max([stop.number, time.perf_counter() - saved >= period])
            first = (state.epoch, state.episode) == (0, n_ranks)
            if first or signalled or save or len(state.metrics.pending) == LOG_INTERVAL:
                check_finite(state, state.metrics.all_gather(), episodes)
                bar.set_postfix(loss=f"{state.metrics.means()['loss']:.3f}", refresh=False)
            if first:
                print(f"first loss: {describe_metrics(state.metrics.means())}")
            if signalled or save:
                if ranks.is_first():
                    save_state(unfinished_path(folder), state)
                ranks.barrier()  # wait until the file is written: torchrun kills all ranks when one exits
                exit_if(signalled, f"after episode {state.episode}")
                saved = time.perf_counter()
    check_finite(state, state.metrics.all_gather(), episodes)
    for statistic in state.model.buffers():  # the first rank's batch-norm statistics
        ranks.broadcast(statistic)
    row = {"epoch": state.epoch + 1, **state.metrics.means(), "lr": lr}
    n_utterances = (state.episode - n_before) * episodes.n_utterances
    seconds = time.perf_counter() - started if n_utterances else math.nan  # if resumed after the last episode
    end_epoch(state)
    return row | {"utterances_per_second": n_utterances / seconds, "waiting": waited / seconds, logbook.EER: math.nan}


def validate(
    args: Namespace, folder: Path, state: TrainingState, validation: Validation | None, stop: "StopSignal"
) -> None:
    """Log the EER of the last completed epoch if --val_every asks for it and log.csv lacks it.

    A signal stops the validation at once, because the checkpoint is already written.
    """
    if validation is None or state.episode or state.epoch % args.val_every:
        return
    if not ranks.broadcast_object(lambda: logbook.lacks_eer(folder, state.epoch)):
        return
    when, stop.exits_at_once = f"while validating epoch {state.epoch}", True
    exit_if(stop.number, when)
    try:
        eer = 100 * validation(state.model.encoder)
    except SystemExit:
        exit_if(stop.number, when)
        raise
    stop.exits_at_once = False
    if ranks.is_first():
        print(f"epoch {state.epoch}: validation EER {eer:.2f} %", flush=True)
        logbook.add_eer(folder, state.epoch, eer)


class StopSignal:
    """Records SIGINT and SIGTERM, so that the run is saved before it stops; a second signal stops it without saving."""

    def __init__(self) -> None:
        self.number = 0  # number of the received signal, 0 for none
        self.exits_at_once = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if self.number and ranks.world_size() == 1:  # torchrun sends one Ctrl-C twice
            raise KeyboardInterrupt
        self.number = number
        if self.exits_at_once:
            raise SystemExit(128 + number)


def exit_if(number: int, when: str) -> None:
    """Exit if `number` is the number of a received signal, not 0."""
    if number:
        console.warn(f"stopped {when} and saved; resume with --use_checkpoint True")
        raise SystemExit(128 + number)


if __name__ == "__main__":
    console.run(main, with_ranks=True)

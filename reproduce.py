"""Reproduce the paper's comparison: train its three settings with several seeds,
with queries of fixed and of variable length, and write one table.

    python reproduce.py --save_path DIR --output paper_table
    python reproduce.py --save_path DIR --output quick_table --quick

table.md and table.csv are written to --output. They contain the EER on full,
5 s, 2 s and 1 s tests and the identification accuracy: mean and standard
deviation over the seeds. Runs and results are stored there, too, so the same
command resumes an interrupted comparison. --quick suits a CPU and small corpus.
"""

import argparse
import json
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas

from configure import EVALUATION_TREES, TRAINING_TREE, TREES, TRIALS_NAME, save_root
from dataset.episodes import eligible_speakers
from dataset.index import FeatureIndex
from dataset.trials import read_trials
from evaluation.context import unseen_speakers
from evaluation.identification import MAX_EPISODES
from evaluation.verification import find_trials
from model.checkpoint import checkpoint_path, run_folder
from model.encoder import BACKBONES
from system import console
from system.compute import PRECISIONS
from system.console import UsageError, UserError
from system.files import replacing
from system.workers import cpu_count

PROJECT = Path(__file__).resolve().parent
SETTINGS = {
    "softmax": ["--loss_type", "softmax", "--use_GC", "False", "--n_query", "0", "--use_variable", "False"],
    "prototypical, fixed query": ["--use_GC", "False", "--use_variable", "False"],
    "prototypical, variable query": ["--use_GC", "False"],
    "prototypical + GC, fixed query": ["--use_variable", "False"],
    "prototypical + GC, variable query": [],
}
SOFTMAX_SPEAKERS = 2.56  # softmax batch size / speakers per episode: 256 / 100, as in the paper
TEST_LENGTHS = {"5 s": "500", "2 s": "200", "1 s": "100"}
SHOTS = (1, 5)
N_QUERY = 5  # test windows of each speaker in an identification episode
FULL_SIZE = {"max_epoch": 100, "nb_class_train": 100, "ways": [5, 10, 20, 50, 100], "precision": "fp32"}
QUICK = {"max_epoch": 12, "nb_class_train": 30, "ways": [5, 10, 20], "precision": "auto"}


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    data, training = parser.add_argument_group("data"), parser.add_argument_group("training").add_argument
    scoring = parser.add_argument_group("scoring").add_argument

    def default(name: str) -> str:
        full, quick = (str(sizes[name]).strip("[]").replace(",", "") for sizes in (FULL_SIZE, QUICK))
        return f"(default: {full}; {quick} with --quick)"

    data.add_argument("--save_path", required=True, metavar="DIR", help="root of the data (required)")
    data.add_argument("--data_type", choices=["vox1", "vox2"], default="vox2", help="training set (default: vox2)")
    training("--seeds", type=console.integer(0, 999), nargs="+", default=[100, 101, 102], metavar="N",
        help="random seeds, one run each (default: 100 101 102)")  # fmt: skip
    training("--backbone", choices=list(BACKBONES), default="resnet34", metavar="NAME",
        help=f"{', '.join(BACKBONES)} (default: resnet34)")  # fmt: skip
    training("--max_epoch", type=console.integer(1), metavar="N", help=f"epochs {default('max_epoch')}")
    training("--nb_class_train", type=console.integer(2), metavar="N",
        help=f"speakers per episode {default('nb_class_train')}")  # fmt: skip
    training("--quick", action="store_true", help="other defaults, for a CPU and a small corpus")
    scoring("--ways", type=console.integer(2), nargs="+", metavar="N",
        help=f"speakers per identification episode {default('ways')}")  # fmt: skip
    scoring("--nb_episode", type=console.integer(2, MAX_EPISODES), default=1000, metavar="N",
        help="identification episodes (default: 1000)")  # fmt: skip
    scoring("--precision", choices=PRECISIONS, help=f"precision of the ResNet {default('precision')}")
    parser.add_argument_group("output").add_argument("--output", type=Path, required=True, metavar="DIR",
        help="folder for runs, results and table (required)")  # fmt: skip
    args = parser.parse_args(argv)
    for name, size in (QUICK if args.quick else FULL_SIZE).items():
        setattr(args, name, getattr(args, name) or size)
    args.seeds, args.ways = (list(dict.fromkeys(given)) for given in (args.seeds, args.ways))
    return args


def main(argv: list[str]) -> None:
    """Train and score the missing runs, and write the table."""
    args = parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    check_tests(args)
    check_same_sizes(args)
    runs = [(number, name, seed) for number, name in enumerate(SETTINGS) for seed in args.seeds]
    measured = []
    for number, name, seed in console.progress(runs, unit="run", desc="comparison"):
        measured += [{"setting": name, "seed": seed, **row} for row in measure(args, number, name, seed)]
        write_table(args, pandas.DataFrame(measured))  # after each run, so that results are visible early
    print((args.output / "table.md").read_text())


def check_tests(args: argparse.Namespace) -> None:
    """Check the trial list and the speakers of the tests, which are needed only after hours of training.

    UserError if features, the list or utterances of it are missing, or if --ways needs more speakers than the tests
    have.
    """
    root = save_root(args.save_path)
    trained_on = FeatureIndex([root / TREES[TRAINING_TREE[args.data_type]].feat]).speakers
    features = FeatureIndex([root / TREES[tree].feat for tree in EVALUATION_TREES])
    find_trials(features, read_trials(root / TRIALS_NAME))
    unseen = unseen_speakers(features, trained_on)
    try:
        eligible_speakers(features, max(args.ways), max(SHOTS) + N_QUERY, unseen)
    except UsageError as error:
        raise UsageError(f"--ways {max(args.ways)}: {error}") from None


def check_same_sizes(args: argparse.Namespace) -> None:
    """Store the settings of the runs in the folder; UserError if its earlier runs have other settings."""
    sizes = {name: getattr(args, name) for name in ("save_path", "data_type", "backbone", "nb_episode", *FULL_SIZE)}
    path = args.output / "sizes.json"
    if path.exists() and json.loads(path.read_text()) != sizes:
        raise UserError(f"{path}: earlier runs had other flags; use the values in this file or another --output")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sizes))


def measure(args: argparse.Namespace, number: int, name: str, seed: int) -> list[dict]:
    """Train and score one setting with one seed; return rows of measure, value and number of trials."""
    folder = 1000 * number + seed
    train(args, name, folder, seed)
    common = ["--n_folder", folder, "--cp_num", args.max_epoch, "--data_type", args.data_type, "--seed", 100, "--json"]
    common += ["--precision", args.precision]
    full = evaluate(args, folder, "full", ["EER_full.py", *common])
    rows = [{"measure": "EER, full", "value": full["eer"], "trials": full["n_trials"]}]
    short = evaluate(args, folder, "short", ["EER_short.py", *common, "--test_length", *TEST_LENGTHS.values()])
    for length, result in zip(TEST_LENGTHS, short["lengths"], strict=True):
        rows.append({"measure": f"EER, {length}", "value": result["eer"], "trials": result["n_trials"]})
    flags = ["--nb_class_test", *args.ways, "--n_shot", *SHOTS, "--n_query", N_QUERY, "--nb_episode", args.nb_episode]
    for result in evaluate(args, folder, "identification", ["identification.py", *common, *flags])["settings"]:
        name = f"{result['n_way']}-way {result['n_shot']}-shot accuracy"
        rows.append({"measure": name, "value": result["accuracy"], "trials": result["n_episodes"]})
    return rows


def train(args: argparse.Namespace, name: str, folder: int, seed: int) -> None:
    """Train a run to its last epoch; resume it if it was interrupted."""
    run = run_folder(str(args.output / "saved_model"), folder)
    if checkpoint_path(run, args.max_epoch).exists():
        return
    speakers = round(SOFTMAX_SPEAKERS * args.nb_class_train) if name == "softmax" else args.nb_class_train
    flags = ["--n_folder", folder, "--seed", seed, "--data_type", args.data_type, "--backbone", args.backbone]
    flags += ["--nb_class_train", speakers, "--max_epoch", args.max_epoch, *SETTINGS[name]]
    flags += ["--keep_last", 1, "--use_checkpoint", "auto"]
    run_script(args, ["train.py", *flags])


def evaluate(args: argparse.Namespace, folder: int, name: str, command: list) -> dict:
    """Return the result of an evaluator; run it only if its result is not stored yet."""
    path = args.output / "results" / f"{folder:04d}_{name}.json"
    if not path.exists():
        result = run_script(args, command).splitlines()[-1]
        with replacing(path) as temporary:
            temporary.write_text(result)
    return json.loads(path.read_text())


def run_script(args: argparse.Namespace, command: list) -> str:
    """Run one of the project's scripts and return its output; if it fails, UserError with the last line of stderr."""
    places = ["--save_path", args.save_path, "--model_path", args.output / "saved_model"]
    script, *flags = map(str, [*command, *places])
    started = time.perf_counter()
    done = subprocess.run([sys.executable, PROJECT / script, *flags], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join([script, *flags])}: {(done.stderr.splitlines() or ['failed'])[-1]}")
    console.warn(f"{time.perf_counter() - started:.0f} s: {' '.join([script, *flags])}")
    return done.stdout


def write_table(args: argparse.Namespace, measured: pandas.DataFrame) -> None:
    """Write table.csv, with a row for each setting and measure, and table.md, with a column for each setting.

    `measured` has a row for each setting, seed and measure, with its value and number of trials.
    """
    groups = measured.groupby(["setting", "measure"], sort=False)
    summary = groups["value"].agg(mean="mean", deviation="std", seeds="count").join(groups["trials"].first())
    with replacing(args.output / "table.csv") as temporary:
        summary.to_csv(temporary)
    settings, names = (summary.index.unique(level) for level in ("setting", "measure"))
    lines = ["| | trials |" + "".join(f" {setting} |" for setting in settings), "|---" * (len(settings) + 2) + "|"]
    for name in names:
        cells = [_cell(summary.loc[setting, name]) if (setting, name) in summary.index else "" for setting in settings]
        trials = summary.xs(name, level="measure")["trials"].iloc[0]
        lines.append(" | ".join([f"| {name} (%)", f"{trials:,}", *cells]) + " |")
    seeds = ", ".join(map(str, args.seeds))
    caption = (
        f"{'Mean and standard deviation over the seeds' if len(args.seeds) > 1 else 'One run each, seed'} {seeds}; "
        f"trials of an accuracy are episodes. {args.backbone} on {args.data_type}, {args.max_epoch} epochs, "
        f"{args.nb_class_train} speakers per episode ({round(SOFTMAX_SPEAKERS * args.nb_class_train)} per softmax "
        f"batch), scored with --precision {args.precision}; {platform.machine()}, {cpu_count()} cores."
    )
    with replacing(args.output / "table.md") as temporary:
        temporary.write_text("\n".join([*lines, "", *textwrap.wrap(caption, 120)]) + "\n")


def _cell(row: pandas.Series) -> str:
    return f"{row['mean']:.2f}" + (f" ± {row['deviation']:.2f}" if row["seeds"] > 1 else "")


if __name__ == "__main__":
    console.run(main)

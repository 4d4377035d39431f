"""Reproduce the paper's comparison: its three settings, fixed and variable queries, several seeds, in one table.

    python reproduce.py --save_path DIR --output paper_table
    python reproduce.py --save_path DIR --output quick_table --quick

Trains with train.py and scores with the evaluators: the EER of full, 5 s, 2 s and 1 s tests, and N-way 1-shot and
5-shot identification. Writes OUTPUT/table.md and OUTPUT/table.csv: mean and standard deviation over the seeds, and the
number of trials. Finished runs and scores are kept in OUTPUT, so the same command resumes an interrupted comparison.
--quick is for a CPU and a small corpus: fewer epochs, speakers and ways, and scores in bfloat16 where the processor
supports it.
"""

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from model.checkpoint import checkpoint_path, run_folder
from system import console
from system.compute import PRECISIONS
from system.console import UserError
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
SOFTMAX_SPEAKERS = 2.56  # of a softmax batch, for each of an episode: 256 for 100, as in the paper
TEST_LENGTHS = {"5 s": "500", "2 s": "200", "1 s": "100"}
SHOTS = (1, 5)
FULL_SIZE = {
    "max_epoch": 100, "nb_class_train": 100, "ways": [5, 10, 20, 50, 100], "nb_episode": 1000, "precision": "fp32"
}  # fmt: skip
QUICK = {"max_epoch": 12, "nb_class_train": 30, "ways": [5, 10, 20], "nb_episode": 1000, "precision": "auto"}


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    add = parser.add_argument
    add("--save_path", required=True, help="root of the data")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of runs, results and table")
    add("--data_type", choices=["vox1", "vox2"], default="vox2", help="what is trained on (vox2)")
    add("--seeds", type=console.integer(0, 999), nargs="+", default=[100, 101, 102], help="one run each (100 101 102)")
    add("--backbone", default="resnet34", help="resnet34, or another of train.py's")
    add("--quick", action="store_true", help=f"other defaults: {QUICK}")
    add("--max_epoch", type=console.integer(1), help=f"({FULL_SIZE['max_epoch']})")
    add("--nb_class_train", type=console.integer(2), help=f"speakers of an episode ({FULL_SIZE['nb_class_train']})")
    add("--ways", type=console.integer(2), nargs="+", help=f"of the identification ({FULL_SIZE['ways']})")
    add("--nb_episode", type=console.integer(2), help=f"of the identification ({FULL_SIZE['nb_episode']})")
    add("--precision", choices=PRECISIONS, help=f"of the scoring ({FULL_SIZE['precision']})")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else FULL_SIZE
    for name, size in sizes.items():
        setattr(args, name, getattr(args, name) or size)
    return args


def main(argv: list[str]) -> None:
    """Train and score what is missing, then write the table."""
    args = parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    check_same_sizes(args)
    runs = [(number, name, seed) for number, name in enumerate(SETTINGS) for seed in args.seeds]
    measured = []
    for number, name, seed in console.progress(runs, unit="run", desc="comparison"):
        measured += [{"setting": name, "seed": seed, **row} for row in measure(args, number, name, seed)]
        write_table(args, summarise(measured))  # after each run: the table so far
    print((args.output / "table.md").read_text())


def check_same_sizes(args: argparse.Namespace) -> None:
    """Store the sizes of the runs in the folder; UserError if its earlier runs have other sizes."""
    sizes = {name: getattr(args, name) for name in ("save_path", "data_type", "backbone", *FULL_SIZE)}
    kept = args.output / "sizes.json"
    if kept.exists() and json.loads(kept.read_text()) != sizes:
        raise UserError(f"{kept}: its runs were started with other flags; repeat those, or choose another --output")
    with replacing(kept) as temporary:
        temporary.write_text(json.dumps(sizes))


def measure(args: argparse.Namespace, number: int, name: str, seed: int) -> list[dict]:
    """Train and score one setting with one seed; return a row of measure, value and trials for each figure."""
    folder = 1000 * number + seed
    train(args, name, folder, seed)
    common = ["--n_folder", folder, "--cp_num", args.max_epoch, "--data_type", args.data_type, "--seed", 100, "--json"]
    common += ["--precision", args.precision]
    full = evaluate(args, folder, "full", ["EER_full.py", *common])
    rows = [{"measure": "EER, whole", "value": full["eer"], "trials": full["n_trials"]}]
    short = evaluate(args, folder, "short", ["EER_short.py", *common, "--test_length", *TEST_LENGTHS.values()])
    for length, result in zip(TEST_LENGTHS, short["lengths"], strict=True):
        rows.append({"measure": f"EER, {length}", "value": result["eer"], "trials": result["n_trials"]})
    flags = ["--nb_class_test", *args.ways, "--n_shot", *SHOTS, "--nb_episode", args.nb_episode]
    for result in evaluate(args, folder, "identification", ["identification.py", *common, *flags])["settings"]:
        figure = f"{result['n_way']}-way {result['n_shot']}-shot accuracy"
        rows.append({"measure": figure, "value": result["accuracy"], "trials": result["n_episodes"]})
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
    """Return an evaluator's result; it is stored, and computed once."""
    kept = args.output / "results" / f"{folder:04d}_{name}.json"
    if not kept.exists():
        result = run_script(args, command).splitlines()[-1]
        with replacing(kept) as temporary:
            temporary.write_text(result)
    return json.loads(kept.read_text())


def run_script(args: argparse.Namespace, command: list) -> str:
    """Run one of the project's scripts and return its output; UserError with its last line if it fails."""
    places = ["--save_path", args.save_path, "--model_path", args.output / "saved_model"]
    script, *flags = map(str, [*command, *places])
    started = time.perf_counter()
    done = subprocess.run([sys.executable, PROJECT / script, *flags], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join([script, *flags])}: {(done.stderr.splitlines() or ['failed'])[-1]}")
    console.warn(f"{time.perf_counter() - started:.0f} s: {' '.join([script, *flags])}")
    return done.stdout


def summarise(measured: list[dict]) -> list[dict]:
    """Return a row for each setting and measure: mean and standard deviation (None for one seed) over the seeds."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in measured:
        groups.setdefault((row["setting"], row["measure"]), []).append(row)
    return [
        {
            "setting": setting,
            "measure": name,
            "mean": statistics.mean(row["value"] for row in rows),
            "deviation": statistics.stdev(row["value"] for row in rows) if len(rows) > 1 else None,
            "seeds": len(rows),
            "trials": rows[0]["trials"],
        }
        for (setting, name), rows in groups.items()
    ]


def write_table(args: argparse.Namespace, summary: list[dict]) -> None:
    """Write table.csv, a row for each figure, and table.md, a row for each measure and a column for each setting."""
    with replacing(args.output / "table.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, summary[0])
        writer.writeheader()
        writer.writerows(summary)
    settings = list(dict.fromkeys(row["setting"] for row in summary))
    cells = {(row["measure"], row["setting"]): row for row in summary}
    lines = ["| | trials |" + "".join(f" {setting} |" for setting in settings), "|---" * (len(settings) + 2) + "|"]
    for name in dict.fromkeys(row["measure"] for row in summary):
        row = [cells.get((name, setting)) for setting in settings]
        trials = next(cell["trials"] for cell in row if cell)
        lines.append(f"| {name} (%) | {trials:,} |" + "".join(f" {_cell(cell)} |" for cell in row))
    seeds = ", ".join(map(str, args.seeds))
    caption = (
        f"{'Mean and standard deviation over the seeds' if len(args.seeds) > 1 else 'One run each, seed'} {seeds}; "
        f"trials of an accuracy are episodes. {args.backbone} on {args.data_type}, {args.max_epoch} epochs, "
        f"{args.nb_class_train} speakers in an episode ({round(SOFTMAX_SPEAKERS * args.nb_class_train)} in a softmax "
        f"batch), scored with --precision {args.precision}; {platform.machine()}, {cpu_count()} cores."
    )
    lines += ["", *textwrap.wrap(caption, 120)]
    with replacing(args.output / "table.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{row['mean']:.2f}" + (f" ± {row['deviation']:.2f}" if row["deviation"] is not None else "")


if __name__ == "__main__":
    console.run(main)

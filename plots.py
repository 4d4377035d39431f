"""Draw results as PNG, SVG or PDF files.

    python plots.py det a.csv b.csv -o det.svg
    python plots.py length curve.csv -o length.svg
    python plots.py training saved_model/baseline_000 -o run.png

det, scores, calibration and length read files of --save_scores. training reads
folders of runs, and embeddings reads a folder of enrolled speakers. NAME=PATH
sets the name in the legend. As-norm scores and LLRs are drawn as additional
systems if all trials of the file have them. docs/evaluation.md has examples.
"""

import argparse
import textwrap
import warnings
from pathlib import Path

import matplotlib

from plotting import speakers, training, verification
from plotting.style import STYLE, add_fallback_fonts, as_text
from system import console
from system.console import UsageError
from system.files import replacing

FORMATS = (".png", ".svg", ".pdf")
PICTURES = {
    "det": (verification.draw_det, "DET curves with EER and minDCF"),
    "scores": (verification.draw_scores, "histograms of scores, with thresholds"),
    "calibration": (verification.draw_calibration, "LLR histograms, Tippett curves and Cllr"),
    "length": (verification.draw_length, "EER against test length, with 95 %% intervals"),
    "training": (training.draw_training, "losses, accuracies, learning rate and EER of runs"),
    "embeddings": (speakers.draw_embeddings, "map of enrolled speakers"),
}


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    commands = parser.add_subparsers(dest="picture", required=True, metavar="PICTURE")
    for name, (draw, purpose) in PICTURES.items():
        description = textwrap.fill(" ".join(str(draw.__doc__).split()), 80)
        command = commands.add_parser(name, help=purpose, description=description)
        command.add_argument("inputs", nargs=1 if name == "embeddings" else "+", type=_named, metavar="[NAME=]PATH",
            help="input, with its name in the legend (default: name of the file or folder)")  # fmt: skip
        command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
            help=f"file to write: {', '.join(FORMATS)} (required)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Draw the picture and write it."""
    args = parse_args(argv)
    suffix = console.suffix_of(args.output, *FORMATS)
    console.refuse_overwriting(args.output, [path for _, path in args.inputs])
    inputs = {as_text(name): path for name, path in args.inputs}
    if len(inputs) < len(args.inputs):
        raise UsageError("two inputs have the same name in the legend; rename one with NAME=PATH")
    draw, _ = PICTURES[args.picture]
    with matplotlib.rc_context(STYLE):
        figure = draw(inputs)
        if lacking := add_fallback_fonts(figure):
            console.warn(f"the installed fonts lack {lacking}, drawn as boxes; install a font such as Noto")
        with replacing(args.output) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # matplotlib warns of each of these characters
            figure.savefig(temporary, format=suffix[1:], dpi=150, bbox_inches="tight")
    print(f"{args.output}: {args.picture}")


def _named(text: str) -> tuple[str, Path]:
    """Read [NAME=]PATH; without a name, the name is the stem of the path.

    Names and paths may contain equals signs: the longest path that exists is chosen. If none exists, all of the text is
    the path.
    """
    parts = text.split("=")
    splits = [("=".join(parts[:i]), Path("=".join(parts[i:]))) for i in range(len(parts))]
    name, path = next((split for split in splits if split[1].exists()), splits[0])
    return name or path.stem, path


if __name__ == "__main__":
    console.run(main)

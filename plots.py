"""Pictures of results, as PNG, SVG or PDF by the output's suffix.

    python plots.py det baseline.csv gc.csv -o det.svg              DET curves with EER and minDCF points
    python plots.py scores scores.csv -o scores.png                 target and non-target scores with thresholds
    python plots.py calibration scores.csv -o calibration.png       log-likelihood ratios, Tippett curves and Cllr
    python plots.py length curve.csv -o length.svg                  EER against test length, with 95 % intervals
    python plots.py training saved_model/baseline_000 -o run.png    losses, accuracies, learning rate, validation EER
    python plots.py embeddings voices -o map.png                    enrolled speakers on a plane

The first four read what --save_scores of the evaluators writes (the length curve that of EER_short.py with several
lengths, the calibration one with LLRs; as-normed scores and LLRs that all trials of a file have are drawn as systems of
their own), the fifth folders of runs, the last a folder of recognize.py enroll. NAME=PATH gives an input another name
in the legend; a path that exists is taken as one, also if it holds an equals sign.
"""

import argparse
import warnings
from pathlib import Path

from matplotlib.text import Text

from plotting import training, verification, voices
from plotting.style import as_text, use_fonts_for
from system import console
from system.console import UsageError
from system.files import replacing

FORMATS = {  # suffix -> the entry for the date, which is left empty: equal data, equal file
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
PICTURES = {
    "det": (verification.draw_det, "DET curves"),
    "scores": (verification.draw_scores, "score histograms"),
    "calibration": (verification.draw_calibration, "log-likelihood ratios"),
    "length": (verification.draw_length, "EER against test length"),
    "training": (training.draw_training, "the course of training"),
    "embeddings": (voices.draw_embeddings, "map of enrolled speakers"),
}


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    commands = parser.add_subparsers(dest="picture", required=True, metavar="PICTURE")
    for name, (draw, purpose) in PICTURES.items():
        command = commands.add_parser(name, help=purpose, description=draw.__doc__)
        command.add_argument("inputs", nargs=1 if name == "embeddings" else "+", type=_named, metavar="[NAME=]PATH")
        command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=" or ".join(FORMATS))
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Draw the picture and write it."""
    args = parse_args(argv)
    suffix = console.suffix_of(args.output, *FORMATS)
    inputs = {as_text(name): path for name, path in args.inputs}
    if len(inputs) < len(args.inputs):
        raise UsageError("two inputs have one name in the legend; NAME=PATH gives one of them another")
    draw, _ = PICTURES[args.picture]
    figure = draw(inputs)
    drawn = "".join(text.get_text() for text in figure.findobj(Text))
    if lacking := use_fonts_for(drawn):
        console.warn(f"no installed font has the letters {lacking}: they are drawn as boxes; install one, such as Noto")
    with replacing(args.output) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # matplotlib's own, one for each such letter
        figure.savefig(temporary, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=FORMATS[suffix])
    print(f"{args.output}: {args.picture}")


def _named(text: str) -> tuple[str, Path]:
    """Read [NAME=]PATH; without a name the path's own says whose it is.

    Names and paths may hold equals signs: the longest path that exists is taken, and else what follows the first sign,
    or all if a folder stands before it.
    """
    parts = text.split("=")
    splits = [("=".join(parts[:at]), Path("=".join(parts[at:]))) for at in range(len(parts))]
    there = (split for split in splits if split[1].exists())
    name, path = next(there, splits[0 if len(Path(parts[0]).parts) > 1 else min(1, len(parts) - 1)])
    return name or path.stem, path


if __name__ == "__main__":
    console.run(main)

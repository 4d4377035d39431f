"""Get the data: download, extract and convert VoxCeleb, or bring other speech into its tree.

    python dataprep.py --save_path DIR --extract                         # archives -> VoxCeleb's tree
    python dataprep.py --save_path DIR --convert                         # m4a -> 16 kHz mono wav
    python dataprep.py --save_path DIR --demo                            # a synthetic corpus to try everything on

Every step skips what is done and continues after an interruption. Several can be given at once.
"""
import argparse
from pathlib import Path

import console
from configure import save_root
from console import UsageError
from corpora import archives, convert, voxceleb


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    parser.add_argument("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    parser.add_argument("--parts", choices=voxceleb.CHOICES, default="all", help="which part of VoxCeleb (all)")
    parser.add_argument("--parts_list", type=Path, metavar="FILE", help="lines 'NAME MD5' in place of VoxCeleb's")
    parser.add_argument("--zip_list", type=Path, metavar="FILE", help="lines 'PART_GLOB ZIP MD5', likewise")
    parser.add_argument("--extract", action="store_true", help="write the archives' files into the tree")
    parser.add_argument("--delete_archives", action="store_true", help="with --extract: remove them afterwards")
    parser.add_argument("--convert", action="store_true", help="write a wav beside every m4a")
    parser.add_argument("--delete_m4a", action="store_true", help="with --convert: remove each m4a afterwards")
    parser.add_argument("--keep_m4a", dest="delete_m4a", action="store_false", help="keep them (default)")
    parser.add_argument("--demo", action="store_true", help="write the synthetic demo corpus")
    parser.add_argument("--seed", type=console.integer(0), default=100, help="of --demo (100)")
    parser.add_argument("--num_workers", type=console.integer(1), help="processes (default: all cores)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Do what the flags ask, in the order of the pipeline."""
    args = parse_args(argv)
    root = save_root(args.save_path)
    if not (args.extract or args.convert or args.demo):
        raise UsageError("say what to do: --extract, --convert or --demo (--help describes them)")
    if args.extract:
        for archive in voxceleb.read_archives(args.parts, args.parts_list, args.zip_list):
            archives.extract(archive, root, args.delete_archives)
    if args.demo:
        from corpora.demo import write_demo  # eSpeak NG is needed for nothing else

        write_demo(root, args.seed)
    if args.convert:
        convert.convert_trees(root, args.delete_m4a, args.num_workers)


if __name__ == "__main__":
    console.run(main)

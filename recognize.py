"""Recognise speakers in your own recordings with a trained checkpoint.

    python recognize.py compare a.wav b.m4a                         one speaker or two?
    python recognize.py enroll --voices voices Anna anna.flac       add or extend a speaker
    python recognize.py identify --voices voices clip.mp3 ...       who speaks? "unknown" if nobody enrolled
    python recognize.py list --voices voices
    python recognize.py remove --voices voices Anna
    python recognize.py embed *.wav -o embeddings.npz               unit-length embeddings
    python recognize.py export model.onnx                           the network for ONNX runtimes

Recordings may have any rate, length and format that soundfile or FFmpeg's libraries read; "-" is standard input.
The checkpoint is the newest of saved_model/baseline_000 unless --checkpoint, --n_folder or --cp_num names another.
Decisions are taken at --threshold or, without it, at the threshold of EER_full.py's last evaluation of the checkpoint:
the EER's for a pair, a higher one among several enrolled speakers, with whom an unknown voice has more chances.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from evaluation import evaluator
from recognition import voices
from recognition.export import export_onnx
from recognition.recognizer import Recognizer
from recognition.utterance import STANDARD_INPUT, Utterance, read_utterance
from system import console
from system.console import UsageError, UserError
from system.files import replacing

__all__ = ["Recognizer"]

MIN_SPEECH = 0.5  # seconds; below, an embedding says little
RANKS_SHOWN = 5  # speakers of a ranking as text; --json has them all


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    command = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser
    pair = _command(command, compare, "score two recordings", network=True, decides=True)
    pair.add_argument("files", nargs=2, metavar="FILE")
    add = _command(command, enroll, "add a speaker, or recordings to one", network=True, voices=True)
    add.add_argument("name", metavar="NAME")
    add.add_argument("files", nargs="+", metavar="FILE")
    _command(command, list_voices, "name the enrolled speakers", voices=True)
    _command(command, remove, "forget a speaker", voices=True).add_argument("name", metavar="NAME")
    who = _command(command, identify, "name the speakers of recordings", network=True, voices=True, decides=True)
    who.add_argument("files", nargs="+", metavar="FILE")
    vectors = _command(command, embed, "write embeddings", network=True)
    vectors.add_argument("files", nargs="+", metavar="FILE")
    vectors.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".npz or .csv")
    model = _command(command, export, "write the network as ONNX", network=True)
    model.add_argument("output", type=Path, metavar="MODEL.onnx")
    args = parser.parse_args(argv)
    if getattr(args, "files", []).count(STANDARD_INPUT) > 1:
        parser.error("standard input (-) can be read once")
    return args


def main(argv: list[str]) -> None:
    """Run the subcommand."""
    args = parse_args(argv)
    args.run(args)


def compare(args: argparse.Namespace) -> None:
    """Print score, decision and durations of two recordings."""
    recognizer = _recognizer(args)
    threshold = _threshold(args, recognizer, 1)
    a, b = utterances = _read(args.files)
    score = float(recognizer.score(*recognizer.embed_utterances(utterances)))
    same = score >= threshold
    result = {"score": score, "threshold": threshold, "same_speaker": same, "seconds": [a.seconds, b.seconds]}
    verdict = "one speaker" if same else "two speakers"
    text = f"{verdict}: score {score:.4f}, threshold {threshold:.4f}; {a.seconds:.2f} s and {b.seconds:.2f} s"
    print(json.dumps(result) if args.json else text)


def enroll(args: argparse.Namespace) -> None:
    """Add recordings to a speaker's voice file, which is made if need be."""
    path = voices.voice_path(args.voices, args.name)
    recognizer = _recognizer(args)
    embeddings = recognizer.embed_utterances(_read(args.files))
    with voices.changing(args.voices):
        voice = voices.load_voice(path) if path.exists() else voices.new_voice(args.name, recognizer.digest)
        voices.check_owner(voice, recognizer.digest)
        voice = voice.extended(embeddings, args.files)
        voices.save_voice(args.voices, voice)
    print(f"{voice} enrolled")


def list_voices(args: argparse.Namespace) -> None:
    """Print the speakers of a folder and how many recordings each has."""
    for voice in voices.load_voices(args.voices):
        print(f"{voice}, checkpoint {voice.digest[:12]}")


def remove(args: argparse.Namespace) -> None:
    """Delete a speaker's voice file."""
    path = voices.voice_path(args.voices, args.name)
    if not path.exists():
        raise UserError(f"{args.name}: not enrolled in {args.voices}")
    with voices.changing(args.voices):
        path.unlink(missing_ok=True)
    print(f"{args.name}: removed")


def identify(args: argparse.Namespace) -> None:
    """Print for each recording the nearest enrolled speaker, or that it is unknown, and the ranking."""
    recognizer = _recognizer(args)
    enrolled = voices.load_voices(args.voices, recognizer.digest)
    threshold = _threshold(args, recognizer, len(enrolled))
    utterances = _read(args.files)
    prototypes = np.stack([voice.prototype for voice in enrolled])
    scores = recognizer.score(recognizer.embed_utterances(utterances)[:, None], prototypes)  # (files, speakers)
    answers = [_answer(*of_file, enrolled, threshold) for of_file in zip(utterances, scores, strict=True)]
    if args.json:
        print(json.dumps({"threshold": threshold, "files": answers}))
        return
    for answer in answers:
        ranking = ", ".join(f"{entry['speaker']} {entry['score']:.4f}" for entry in answer["ranking"][:RANKS_SHOWN])
        print(f"{answer['file']} ({answer['seconds']:.2f} s): {answer['speaker'] or voices.UNKNOWN} [{ranking}]")


def embed(args: argparse.Namespace) -> None:
    """Write the embeddings of recordings as arrays `files` (n,), `embeddings` (n, 256), or as a row for each file."""
    if args.output.suffix not in (".npz", ".csv"):
        raise UsageError(f"--output {args.output}: the name ends in .npz or .csv")
    embeddings = _recognizer(args).embed_utterances(_read(args.files))
    with replacing(args.output) as temporary:
        if args.output.suffix == ".npz":
            with open(temporary, "wb") as file:
                np.savez(file, files=np.array(args.files), embeddings=embeddings)
        else:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                rows = ([name, *map(str, e)] for name, e in zip(args.files, embeddings, strict=True))
                csv.writer(file).writerows([["file", *(f"e{i}" for i in range(embeddings.shape[1]))], *rows])
    print(f"{args.output}: {len(embeddings)} embeddings of {embeddings.shape[1]} dimensions")


def export(args: argparse.Namespace) -> None:
    """Write the encoder as ONNX: features (N, 1, 40, T) to embeddings (N, 256), N and T free."""
    export_onnx(_recognizer(args).encoder, args.output)
    print(f"{args.output}: features (batch, 1, 40, frames) to embedding (batch, 256)")


def _command(
    add_parser: Callable[..., console.Parser],
    run: Callable[[argparse.Namespace], None],
    purpose: str,
    *,
    network: bool = False,
    voices: bool = False,
    decides: bool = False,
) -> console.Parser:
    """Add the subcommand that `run` carries out, with the flags of what it uses."""
    parser = add_parser(run.__name__.removesuffix("_voices"), help=purpose, description=run.__doc__)
    parser.set_defaults(run=run)
    if network:
        evaluator.add_checkpoint_arguments(parser)
        parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda, cuda:1, mps")
    if voices:
        parser.add_argument("--voices", type=Path, required=True, metavar="DIR", help="folder of enrolled speakers")
    if decides:
        parser.add_argument("--threshold", type=float, help="least score of one speaker (the checkpoint's own)")
        parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return parser


def _recognizer(args: argparse.Namespace) -> Recognizer:
    path, _ = evaluator.find_checkpoint(args)
    return Recognizer(path, args.device)


def _threshold(args: argparse.Namespace, recognizer: Recognizer, n_voices: int) -> float:
    """Return the score to decide at; UsageError where neither the user nor an evaluation has set one."""
    threshold = recognizer.threshold_among(n_voices) if args.threshold is None else args.threshold
    if threshold is None:
        raise UsageError("this checkpoint has no threshold yet: give --threshold, or run EER_full.py, which keeps one")
    return threshold


def _read(files: Sequence[str]) -> list[Utterance]:
    """Read the recordings, with a warning for each that holds too little speech."""
    utterances = []
    for file in console.progress(files, unit="file", desc="reading"):
        utterances.append(read_utterance(file))
        if utterances[-1].speech < MIN_SPEECH:
            console.warn(f"{file}: {utterances[-1].speech:.2f} s of speech; below {MIN_SPEECH} s a score says little")
    return utterances


def _answer(utterance: Utterance, scores: np.ndarray, enrolled: list[voices.Voice], threshold: float) -> dict:
    """Return what --json prints of a recording: scores (S,) ranked, and the nearest speaker, None if unknown."""
    order = np.argsort(-scores, kind="stable")
    ranking = [{"speaker": enrolled[at].name, "score": float(scores[at])} for at in order]
    speaker = ranking[0]["speaker"] if ranking[0]["score"] >= threshold else None
    return {"file": utterance.name, "seconds": utterance.seconds, "speaker": speaker, "ranking": ranking}


if __name__ == "__main__":
    console.run(main)

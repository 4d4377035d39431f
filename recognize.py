"""Recognise speakers in your own recordings with a trained checkpoint.

    python recognize.py compare a.wav b.m4a                         one speaker or two?
    python recognize.py enroll --voices voices Anna anna.flac       add or extend a speaker
    python recognize.py identify --voices voices clip.mp3 ...       who speaks? "unknown" if nobody enrolled
    python recognize.py list --voices voices
    python recognize.py remove --voices voices Anna
    python recognize.py embed *.wav -o embeddings.npz               unit-length embeddings
    python recognize.py export model.onnx                           the network for ONNX runtimes
    python recognize.py export model.pth                            the checkpoint's encoder alone, in half precision

Recordings may have any rate, length and format that FFmpeg's libraries read; "-" is standard input. Pauses are cut
out of them (--trim_silence False leaves them in); --channel takes one side of a call.
The checkpoint is pretrained/open_speech.pth, which comes with the project, unless --checkpoint, or --n_folder,
--cp_num or --model_path, name another.
Decisions go by probabilities: the log-likelihood ratio (LLR) that the checkpoint's calibration gives a score between so
many seconds of speech, and the --prior probability that the recordings are one speaker's, or that the speaker is among
the enrolled. EER_short.py --calibrate True keeps a calibration; --threshold decides at a cosine score without one.
"""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import evaluator
from model.checkpoint import MODEL_PATH, Checkpoint, save_checkpoint
from recognition import voices
from recognition.export import export_onnx
from recognition.recognizer import PRETRAINED, Recognizer, Rule, unknown
from recognition.utterance import STANDARD_INPUT, read_utterance, utterance_of
from system import console
from system.console import UserError
from system.files import replacing, replacing_table, sha256

__all__ = ["Recognizer", "read_utterance", "utterance_of"]

MIN_SPEECH = 0.5  # seconds; below, an embedding says little
RANKS_SHOWN = 5  # speakers of a ranking as text; --json has them all


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    file, folder, rule = (console.Parser(add_help=False) for _ in range(3))  # flags of several subcommands
    evaluator.add_checkpoint_arguments(file)
    file.set_defaults(n_folder=None, model_path=None)
    network = console.Parser(add_help=False, parents=[file])
    network.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda, cuda:1, mps")
    folder.add_argument("--voices", type=Path, required=True, metavar="DIR", help="folder of enrolled speakers")
    basis = rule.add_mutually_exclusive_group()
    basis.add_argument("--prior", type=_prior, default=0.5, help="probability before listening, 0..1 (0.5)")
    basis.add_argument("--threshold", type=float, help="decide at this cosine score instead")
    rule.add_argument("--json", action="store_true", help="print the result as one line of JSON")

    parser = console.Parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, purpose: str, *parents: console.Parser) -> console.Parser:
        name = run.__name__.removesuffix("_voices")
        added = commands.add_parser(name, help=purpose, description=run.__doc__, parents=parents)
        added.set_defaults(run=run)
        return added

    _add_files(command(compare, "score two recordings", network, rule), nargs=2)
    enrolment = command(enroll, "add a speaker, or recordings to one", network, folder)
    enrolment.add_argument("name", metavar="NAME")
    _add_files(enrolment)
    command(list_voices, "name the enrolled speakers", folder)
    command(remove, "forget a speaker", folder).add_argument("name", metavar="NAME")
    _add_files(command(identify, "name the speakers of recordings", network, folder, rule))
    vectors = command(embed, "write embeddings", network)
    _add_files(vectors)
    vectors.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".npz or .csv")
    model = command(export, "write the network as ONNX, or as a smaller checkpoint", file)
    model.add_argument("output", type=Path, metavar="FILE", help=".onnx or .pth")
    args = parser.parse_args(argv)
    if getattr(args, "files", []).count(STANDARD_INPUT) > 1:
        parser.error("standard input (-) can be read once")
    return args


def main(argv: list[str]) -> None:
    """Run the subcommand."""
    args = parse_args(argv)
    args.run(args)


def compare(args: argparse.Namespace) -> None:
    """Print score, LLR, probability, decision and seconds of speech of two recordings."""
    rule = _rule(args)
    (a, b), seconds = _read(args, rule.recognizer)
    figures = rule.figures(b, seconds[1], a[None], seconds[:1])
    same = rule.accepts(figures)
    values = {name: float(column[0]) for name, column in figures.items()} | rule.setting
    if args.json:
        print(json.dumps({"same_speaker": same} | values | {"seconds": seconds.tolist()}))
        return
    words = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    verdict = "one speaker" if same else "two speakers"
    print(f"{verdict}: {words}; {seconds[0]:.2f} s and {seconds[1]:.2f} s of speech")


def enroll(args: argparse.Namespace) -> None:
    """Add recordings to a speaker's voice file, which is made if need be."""
    path = voices.voice_path(args.voices, args.name)
    recognizer = _recognizer(args)
    embeddings, seconds = _read(args, recognizer)
    with voices.changing(args.voices):
        voice = voices.load_voice(path) if path.exists() else voices.new_voice(args.name, recognizer.digest)
        voices.check_owner(voice, recognizer.digest)
        voice = voice.extended(embeddings, args.files, seconds)
        voices.save_voice(args.voices, voice)
    print(f"{voice} enrolled")


def list_voices(args: argparse.Namespace) -> None:
    """Print the speakers of a folder, how many recordings each has and how much speech."""
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
    """Print for each recording who speaks, or that it is nobody enrolled, and the likeliest speakers."""
    rule = _rule(args)
    enrolled = voices.load_voices(args.voices, rule.recognizer.digest)
    prototypes = np.stack([voice.prototype for voice in enrolled])
    seconds, names = np.array([voice.seconds.sum() for voice in enrolled]), [voice.name for voice in enrolled]
    answers = []
    for file, embedding, speech in zip(args.files, *_read(args, rule.recognizer), strict=True):
        figures = rule.figures(embedding, speech, prototypes, seconds)
        answers.append({"file": file, "seconds": float(speech)} | _answer(figures, names, rule))
    if args.json:
        print(json.dumps(rule.setting | {"files": answers}))
    else:
        print(*map(_in_words, answers), sep="\n")


def embed(args: argparse.Namespace) -> None:
    """Write the embeddings of recordings as arrays `files` (n,), `embeddings` (n, 256), or as a row for each file."""
    suffix = console.suffix_of(args.output, ".npz", ".csv")
    embeddings, _ = _read(args, _recognizer(args))
    if suffix == ".npz":
        with replacing(args.output) as temporary, open(temporary, "wb") as file:
            np.savez(file, files=np.array(args.files), embeddings=embeddings)
    else:
        with replacing_table(args.output) as table:
            rows = ([name, *map(str, e)] for name, e in zip(args.files, embeddings, strict=True))
            csv.writer(table).writerows([["file", *(f"e{i}" for i in range(embeddings.shape[1]))], *rows])
    print(f"{args.output}: {len(embeddings)} embeddings of {embeddings.shape[1]} dimensions")


def export(args: argparse.Namespace) -> None:
    """Write the encoder as ONNX, features (N, 1, 40, T) to embeddings (N, 256), or alone as a checkpoint (.pth)."""
    suffix = console.suffix_of(args.output, ".onnx", ".pth")
    path, checkpoint = _checkpoint(args)
    if suffix == ".pth":
        try:
            save_checkpoint(args.output, checkpoint.encoder_alone())
        except ValueError as error:
            raise UserError(f"{path}: cannot be halved: {error}") from None
        print(f"{args.output}: the encoder of {path} in half precision, {args.output.stat().st_size / 1e6:.1f} MB")
        return
    export_onnx(checkpoint.encoder().for_inference(), args.output, sha256(path))
    print(f"{args.output}: features (batch, 1, 40, frames) to embedding (batch, 256)")


def _add_files(parser: console.Parser, nargs: int | str = "+") -> None:
    parser.add_argument("files", nargs=nargs, metavar="FILE")
    parser.add_argument("--channel", type=console.integer(1), metavar="N", help="of several, counted from 1 (the mean)")
    parser.add_argument("--trim_silence", type=console.boolean, default=True, help="cut pauses (True)")


def _checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Return the checkpoint that the flags name, or the one that comes with the project, and its file."""
    if args.checkpoint is args.n_folder is args.cp_num is args.model_path is None:
        args.checkpoint = PRETRAINED
        console.warn(f"checkpoint: {args.checkpoint.name}, which comes with the project; --checkpoint names another")
    args.n_folder, args.model_path = args.n_folder or 0, args.model_path or MODEL_PATH
    return evaluator.find_checkpoint(args)


def _recognizer(args: argparse.Namespace) -> Recognizer:
    return Recognizer(_checkpoint(args)[0], args.device)


def _rule(args: argparse.Namespace) -> Rule:
    """Return how to decide; UserError if neither a calibration nor the user says so."""
    rule = Rule(_recognizer(args), args.prior, args.threshold)
    if rule.threshold is None:
        rule.recognizer.calibrated()
    return rule


def _prior(text: str) -> float:
    value = console.positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not below 1")
    return value


def _read(args: argparse.Namespace, recognizer: Recognizer) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (n, 256) and seconds of speech (n,) of the recordings.

    A recording with less speech than scores are known to be good for is warned of.
    """
    utterances = []
    least = recognizer.calibration.test_seconds[0] if recognizer.calibration else MIN_SPEECH
    for file in console.progress(args.files, unit="file", desc="reading"):
        utterances.append(read_utterance(file, args.channel, args.trim_silence))
        if utterances[-1].speech < least:
            console.warn(f"{file}: {utterances[-1].speech:.2f} s of speech; below {least:.2f} s a score says little")
    return recognizer.embed_utterances(utterances), np.array([utterance.speech for utterance in utterances])


def _answer(figures: dict[str, np.ndarray], names: list[str], rule: Rule) -> dict[str, Any]:
    """Return who a recording is of, None for nobody enrolled, and the speakers ranked, as --json prints it.

    `figures` (S,) are the rule's for the voices of these names (S,).
    """
    ranking: list[dict[str, Any]] = [
        {"speaker": speaker} | {name: float(column[at]) for name, column in figures.items()}
        for at, speaker in enumerate(names)
    ]
    ranking.sort(key=lambda entry: [-entry[name] for name in reversed(figures)])  # equal LLRs: by the score
    answer: dict[str, Any] = {"speaker": ranking[0]["speaker"] if rule.accepts(figures) else None}
    if rule.threshold is None:
        answer["unknown"] = unknown(figures)
    return answer | {"ranking": ranking}


def _in_words(answer: dict) -> str:
    """Return an answer as a line: the speaker, and the likeliest ones, unknown among them."""
    figure = "probability" if "unknown" in answer else "score"
    ranking = [(entry["speaker"], entry[figure]) for entry in answer["ranking"]]
    if "unknown" in answer:
        ranking = sorted([*ranking, (voices.UNKNOWN, answer["unknown"])], key=lambda entry: -entry[1])
    shown = ", ".join(f"{name} {value:.4f}" for name, value in ranking[:RANKS_SHOWN])
    file, speaker = console.one_line(answer["file"]), answer["speaker"] or voices.UNKNOWN
    return f"{file} ({answer['seconds']:.2f} s of speech): {speaker} [{shown}]"


if __name__ == "__main__":
    console.run(main)

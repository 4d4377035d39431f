"""Recognise speakers in your own recordings with a trained checkpoint.

    python recognize.py compare a.wav b.m4a                         one speaker or two?
    python recognize.py enroll --voices voices Anna anna.flac       add or extend a speaker
    python recognize.py identify --voices voices clip.mp3 ...       who speaks? "unknown" if nobody enrolled
    python recognize.py list --voices voices
    python recognize.py rename --voices voices Anna Anne
    python recognize.py remove --voices voices Anne [anna.flac]     a speaker, or a recording of one
    python recognize.py embed *.wav -o embeddings.npz               unit-length embeddings
    python recognize.py export model.onnx                           the network for ONNX runtimes
    python recognize.py export model.pth                            the checkpoint's encoder alone, in half precision

Recordings may have any rate, length and format that FFmpeg's libraries read; "-" is standard input. Pauses are cut
out of them (--trim_silence False leaves them in); --channel takes one side of a call. Except for compare, a folder
stands for all recordings in it, and @LIST for the paths in a text file, one a line (@/dev/stdin: from a pipe). The
recordings that cannot be used are named at the end, and the exit status is 1; the others are identified or embedded.
The checkpoint is pretrained/open_speech.pth, which comes with the project, unless --checkpoint, or --n_folder,
--cp_num or --model_path, name another.
Decisions go by probabilities: the log-likelihood ratio (LLR) that the checkpoint's calibration gives a score between so
many seconds of speech, and the --prior probability that the recordings are one speaker's, or that the speaker is among
the enrolled. EER_short.py --calibrate True keeps a calibration; --threshold decides at a cosine score without one.
"""

import argparse
import inspect
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from command_line.checkpoint import add_checkpoint_arguments, find_checkpoint
from model.checkpoint import MODEL_PATH, Checkpoint, save_checkpoint
from model.encoder import EMBEDDING_SIZE
from recognition import speakers
from recognition.batch import Embedded, Failed, embed_each, find_candidates, save_embeddings
from recognition.enrolment import enrol
from recognition.export import export_onnx
from recognition.recognizer import PRETRAINED, Recognizer, Rule
from recognition.utterance import STANDARD_INPUT, Utterance, read_utterance, utterance_of
from system import console
from system.console import UserError

__all__ = ["Recognizer", "read_utterance", "utterance_of"]

MIN_SPEECH = 0.5  # seconds; below, an embedding says little
RANKS_SHOWN = 5  # speakers of a ranking as text; --json has them all


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    file, folder, rule, output = (console.Parser(add_help=False) for _ in range(4))  # flags of several subcommands
    add_checkpoint_arguments(file)
    file.set_defaults(n_folder=None, model_path=None)
    network = console.Parser(add_help=False, parents=[file])
    network.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda, cuda:1, mps")
    folder.add_argument("--voices", type=Path, required=True, metavar="DIR", help="folder of enrolled speakers")
    basis = rule.add_mutually_exclusive_group()
    basis.add_argument("--prior", type=_prior, default=0.5, help="probability before listening, 0..1 (0.5)")
    basis.add_argument("--threshold", type=float, help="decide at this cosine score instead")
    output.add_argument("--json", action="store_true", help="print the result as one line of JSON")

    parser = console.Parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, purpose: str, *parents: console.Parser) -> console.Parser:
        name = run.__name__.partition("_")[0]
        added = commands.add_parser(name, help=purpose, description=inspect.getdoc(run), parents=parents)
        added.set_defaults(run=run)
        return added

    _add_files(command(compare, "score two recordings", network, rule, output), nargs=2)
    enrolment = command(enroll, "add a speaker, or recordings to one", network, folder, output)
    enrolment.add_argument("name", metavar="NAME")
    _add_files(enrolment)
    enrolment.add_argument("--force", type=console.boolean, default=False, help="enrol without comparing (False)")
    command(list_voices, "name the enrolled speakers", folder, output)
    renamed = command(rename, "give a speaker another name", folder)
    renamed.add_argument("name", metavar="OLD")
    renamed.add_argument("new", metavar="NEW")
    removed = command(remove, "forget a speaker, or recordings of one", folder)
    removed.add_argument("name", metavar="NAME")
    removed.add_argument("recordings", nargs="*", metavar="FILE", help="recordings to remove (the speaker)")
    _add_files(command(identify, "name the speakers of recordings", network, folder, rule, output))
    vectors = command(embed, "write embeddings", network, output)
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
    utterances = list(map(_reader(args, rule.recognizer), args.files))
    a, b = rule.recognizer.embed_utterances(utterances)
    seconds = np.array([utterance.speech for utterance in utterances])
    figures = rule.figures(b, seconds[1], a[None], seconds[:1])
    same = rule.accepts(figures)
    values = {name: float(column[0]) for name, column in figures.items()} | rule.setting
    words = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    verdict = "one speaker" if same else "two speakers"
    has_voice = [utterance.has_voice for utterance in utterances]
    words = f"{verdict}: {words}; {seconds[0]:.2f} s and {seconds[1]:.2f} s of speech"
    _report(args, {"same_speaker": same} | values | {"seconds": seconds.tolist(), "voice": has_voice}, words)


def enroll(args: argparse.Namespace) -> None:
    """Add recordings to a speaker's voice file, which is made if need be; all of them, or none if one is bad.

    They are compared with each other, with the speaker's voice and with the other voices in the folder; those that
    are probably another speaker's are enrolled with a warning. The comparison needs the checkpoint's calibration.
    """
    speakers.voice_path(args.voices, args.name)
    recognizer = _recognizer(args)
    results = list(_embed_files(args, recognizer))
    recordings = [result for result in results if isinstance(result, Embedded)]
    files = {"files": [result.as_json() for result in results]}
    if len(recordings) < len(results):
        _report(args, {"speaker": args.name} | files)
    _refuse_failed(results, "; nothing was enrolled")
    voice, doubts = enrol(args.voices, args.name, recordings, recognizer, compare=not args.force)
    for doubt in doubts:
        console.warn(doubt.text)
    if any(doubt.is_of_speaker for doubt in doubts):
        given = shlex.join(["recognize.py", "remove", "--voices", str(args.voices), voice.name])
        console.warn(f"{given} FILE takes a recording back")
    _report(args, voice.as_json() | files | {"warnings": [doubt.as_json() for doubt in doubts]}, f"{voice} enrolled")


def list_voices(args: argparse.Namespace) -> None:
    """Print the speakers of a folder, how many recordings each has and how much speech."""
    enrolled = speakers.load_voices(args.voices)
    lines = (f"{voice}, checkpoint {voice.digest[:12]}" for voice in enrolled)
    _report(args, {"voices": [voice.as_json() for voice in enrolled]}, *lines)


def rename(args: argparse.Namespace) -> None:
    """Give a speaker another name."""
    speakers.enrolled_path(args.voices, args.name)
    with speakers.changing(args.voices):
        speakers.rename_voice(args.voices, args.name, args.new)
    print(f"{args.name}: renamed to {args.new}")


def remove(args: argparse.Namespace) -> None:
    """Delete a speaker's voice file, or recordings from it; the file goes with the last of them."""
    speakers.enrolled_path(args.voices, args.name)
    with speakers.changing(args.voices):
        left = speakers.remove_recordings(args.voices, args.name, args.recordings)
    print(f"{left} left" if left else f"{args.name}: removed")


def identify(args: argparse.Namespace) -> None:
    """Print for each recording who speaks, or that it is nobody enrolled, and the likeliest speakers.

    The prior is shared evenly by the enrolled speakers: with many of them, recordings are often "unknown" at 0.5 though
    the right speaker ranks first. --prior 0.95 names more, also of people who are not enrolled.
    """
    rule = _rule(args)
    enrolled = speakers.load_voices(args.voices, rule.recognizer.digest)
    prototypes = np.stack([voice.prototype for voice in enrolled])
    seconds, names = np.array([voice.speech for voice in enrolled]), [voice.name for voice in enrolled]
    results, answers = [], []
    for result in _embed_files(args, rule.recognizer):
        results.append(result)
        answer = result.as_json()
        if isinstance(result, Embedded):
            answer |= rule.answer(rule.figures(result.embedding, result.seconds, prototypes, seconds), names)
        if args.json:
            answers.append(answer)
        elif isinstance(result, Embedded):
            console.say(_in_words(answer))
    if args.json:
        print(json.dumps(rule.setting | {"files": answers}))
    _refuse_failed(results)


def embed(args: argparse.Namespace) -> None:
    """Write the embeddings of recordings as arrays `files` (n,), `embeddings` (n, 256), or as a row for each file."""
    console.suffix_of(args.output, ".npz", ".csv")
    results = list(_embed_files(args, _recognizer(args)))
    files = {"files": [result.as_json() for result in results]}
    if recordings := [result for result in results if isinstance(result, Embedded)]:
        save_embeddings(args.output, recordings)
        words = f"{args.output}: {len(recordings)} embeddings of {EMBEDDING_SIZE} dimensions"
        _report(args, {"output": str(args.output)} | files, words)
    else:
        _report(args, {"output": None} | files)
    _refuse_failed(results)


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
    export_onnx(checkpoint.encoder().for_inference(), args.output, checkpoint.digest)
    print(f"{args.output}: features (batch, 1, 40, frames) to embedding (batch, 256)")


def _add_files(parser: console.Parser, nargs: int | str = "+") -> None:
    several = "" if nargs == 2 else ", a folder of recordings, or @LIST, a text file of paths"
    parser.add_argument("files", nargs=nargs, metavar="FILE", help=f"a recording, - (standard input){several}")
    parser.add_argument("--channel", type=console.integer(1), metavar="N", help="of several, counted from 1 (the mean)")
    parser.add_argument("--trim_silence", type=console.boolean, default=True, help="cut pauses (True)")


def _checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Return the checkpoint that the flags name, or the one that comes with the project, and its file."""
    if args.checkpoint is args.n_folder is args.cp_num is args.model_path is None:
        args.checkpoint = PRETRAINED
        console.warn(f"checkpoint: {args.checkpoint.name}, which comes with the project; --checkpoint names another")
    args.n_folder, args.model_path = args.n_folder or 0, args.model_path or MODEL_PATH
    return find_checkpoint(args)


def _recognizer(args: argparse.Namespace) -> Recognizer:
    path, checkpoint = _checkpoint(args)
    return Recognizer(path, args.device, checkpoint)


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


def _reader(args: argparse.Namespace, recognizer: Recognizer) -> Callable[[str], Utterance]:
    """Return a function that reads a recording, and warns if its scores will say little.

    That is with less speech than scores are known to be good for, or without a voice.
    """
    least = recognizer.calibration.test_seconds[0] if recognizer.calibration else MIN_SPEECH

    def read(file: str) -> Utterance:
        utterance = read_utterance(file, args.channel, args.trim_silence)
        if utterance.speech < least:
            console.warn(f"{file}: {utterance.speech:.2f} s of speech; below {least:.2f} s a score says little")
        elif not utterance.has_voice:
            console.warn(f"{file}: no voice found; its scores are not meaningful")
        return utterance

    return read


def _embed_files(args: argparse.Namespace, recognizer: Recognizer) -> Iterator[Embedded | Failed]:
    """Yield the embeddings of the recordings that the user named, or why one has none."""
    others: list[str] = []
    candidates = console.progress(find_candidates(args.files), unit="file", desc="reading")
    for result in embed_each(candidates, _reader(args, recognizer), recognizer):
        if isinstance(result, Failed) and result.is_other:
            others.append(result.file)
        else:
            yield result
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        console.warn(f"{others[0]}{more}: not recordings, skipped")


def _refuse_failed(results: list[Embedded | Failed], consequence: str = "") -> None:
    """Raise UserError naming the files that cannot be used, if any; also if there are no recordings."""
    errors = [result.error for result in results if isinstance(result, Failed)]
    if not results:
        raise UserError("no recordings were found")
    if len(errors) > 1:
        for error in errors:
            console.warn(error)
        raise UserError(f"{len(errors):,} of {len(results):,} recordings cannot be used{consequence}")
    if errors:
        raise UserError(errors[0] + consequence)


def _report(args: argparse.Namespace, result: dict[str, Any], *lines: str) -> None:
    """Print a result as one line of JSON with --json, else in words."""
    for line in [json.dumps(result)] if args.json else lines:
        print(line)


def _in_words(answer: dict) -> str:
    """Return an answer as a line: the speaker, and the likeliest ones, unknown among them."""
    figure = "probability" if "unknown" in answer else "score"
    ranking = [(entry["speaker"], entry[figure]) for entry in answer["ranking"]]
    if "unknown" in answer:
        ranking = sorted([*ranking, (speakers.UNKNOWN, answer["unknown"])], key=lambda entry: -entry[1])
    shown = ", ".join(f"{name} {value:.4f}" for name, value in ranking[:RANKS_SHOWN])
    file, speaker = console.one_line(answer["file"]), answer["speaker"] or speakers.UNKNOWN
    return f"{file} ({answer['seconds']:.2f} s of speech): {speaker} [{shown}]"


if __name__ == "__main__":
    console.run(main)

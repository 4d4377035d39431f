"""Recognise speakers in your own recordings with a trained checkpoint.

    python recognize.py compare a.wav b.m4a                    # same speaker?
    python recognize.py enroll --voices voices Anna anna.flac  # enrol a speaker
    python recognize.py identify --voices voices clip.mp3      # which speaker?

Each command has a --help. Recordings may have any sampling rate and any format
that FFmpeg's libraries can decode; "-" is standard input. The commands enroll,
identify and embed also accept a folder of recordings, and @LIST, a text file
with one path per line. If some recordings cannot be used, identify and embed
process the others, and the exit status is 1.

Without --checkpoint or --n_folder, the checkpoint is the bundled model,
pretrained/open_speech.pth. Decisions use the log-likelihood ratio (LLR) and the
prior probability --prior. The LLR needs a calibration of the checkpoint, which
EER_short.py --calibrate True writes. Without a calibration, use --threshold to
decide by the cosine score.
"""

import argparse
import inspect
import json
import logging
import math
import shlex
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from command_line.checkpoint import add_checkpoint_arguments, find_checkpoint
from model.checkpoint import MODEL_PATH, Checkpoint, save_checkpoint
from model.encoder import EMBEDDING_SIZE
from recognition import batch, speakers
from recognition.batch import EmbeddedRecording, FailedRecording, embed_each, find_candidates, save_embeddings
from recognition.decision import DecisionRule
from recognition.enrolment import enrol
from recognition.export import export_onnx
from recognition.recognizer import BUNDLED_MODEL, Recognizer
from recognition.utterance import STANDARD_INPUT, Utterance, read_utterance, utterance_of
from system import console
from system.console import UserError

__all__ = ["Recognizer", "read_utterance", "utterance_of"]

MIN_SPEECH = 0.5  # seconds of speech that a reliable score needs, if there is no calibration
RANKS_SHOWN = 5  # speakers of a ranking that are printed as text; --json has all


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    file, folder, rule, output = (console.Parser(add_help=False) for _ in range(4))  # flags of several subcommands
    add_checkpoint_arguments(file, bundled=True)
    network = console.Parser(add_help=False, parents=[file])
    network.add_argument_group("hardware").add_argument("--device", default="auto", metavar="NAME",
        help="auto, cpu, cuda, cuda:1 or mps (default: auto, CUDA if available)")  # fmt: skip
    folder.add_argument_group("speakers").add_argument("--voices", type=Path, required=True, metavar="DIR",
        help="folder of enrolled speakers (required)")  # fmt: skip
    decision = rule.add_argument_group("decision").add_argument
    decision("--prior", type=_prior, default=0.5, metavar="P",
             help="prior probability of the same speaker or of an enrolled one (default: 0.5)")  # fmt: skip
    decision("--threshold", type=_cosine, metavar="SCORE",
             help="minimum cosine score, -1 to 1, without LLR (default: none)")  # fmt: skip
    rule.works_if("prior", lambda args: args.threshold is None, "with --threshold")
    output.add_argument_group("output").add_argument("--json", action="store_true",
        help="print the result as one line of JSON")  # fmt: skip

    parser = console.Parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, purpose: str, *parents: console.Parser) -> console.Parser:
        name = run.__name__.partition("_")[0]
        added = commands.add_parser(name, help=purpose, description=inspect.getdoc(run), parents=parents)
        added.set_defaults(run=run)
        return added

    _add_files(command(compare, "decide whether two recordings are from one speaker", network, rule, output), nargs=2)
    enrolment = command(enroll, "enrol a speaker, or add recordings", network, folder, output)
    enrolment.add_argument("name", metavar="NAME", help="speaker")
    _add_files(enrolment)
    enrolment.add_argument_group("speakers").add_argument("--force", type=console.boolean, default=False,
        metavar="BOOL", help="enrol without comparing speakers (default: False)")  # fmt: skip
    command(list_speakers, "list the enrolled speakers", folder, output)
    renamed = command(rename, "rename a speaker", folder)
    renamed.add_argument("name", metavar="OLD", help="speaker")
    renamed.add_argument("new", metavar="NEW", help="new name of the speaker")
    removed = command(remove, "remove a speaker, or some recordings", folder)
    removed.add_argument("name", metavar="NAME", help="speaker")
    removed.add_argument("recordings", nargs="*", metavar="FILE", help="recording to remove (default: the speaker)")
    _add_files(command(identify, "name the speakers of recordings", network, folder, rule, output))
    vectors = command(embed, "write embeddings", network, output)
    _add_files(vectors)
    vectors.add_argument_group("output").add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
        help=".npz or .csv file (required)")  # fmt: skip
    model = command(export, "write the network as ONNX, or as a smaller checkpoint", file)
    model.add_argument("output", type=Path, metavar="OUTPUT", help=".onnx or .pth file")
    args = parser.parse_args(argv)
    if getattr(args, "files", []).count(STANDARD_INPUT) > 1:
        parser.error("standard input (-) can be read once")
    return args


def _add_files(parser: console.Parser, nargs: int | str = "+") -> None:
    several = "" if nargs == 2 else ", folder of recordings, or @LIST, a text file of paths"
    parser.add_argument("files", nargs=nargs, metavar="FILE", help=f"recording, - (standard input){several}")
    add = parser.add_argument_group("recordings").add_argument
    add("--channel", type=console.integer(1), metavar="N", help="channel, counted from 1 (default: mean of all)")
    add("--trim_silence", type=console.boolean, default=True, metavar="BOOL",
        help="remove silence at both ends, and shorten pauses to 0.1 s (default: True)")  # fmt: skip


def _prior(text: str) -> float:
    value = console.positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not below 1")
    return value


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from -1 to 1")
    return value


def main(argv: list[str]) -> None:
    """Run the subcommand."""
    args = parse_args(argv)
    args.run(args)


def compare(args: argparse.Namespace) -> None:
    """Decide whether two recordings are from the same speaker.

    Prints the decision, the cosine score, the log-likelihood ratio (LLR), the
    probability of the same speaker, and the seconds of speech.
    """
    rule = _decision_rule(args)
    utterances = list(map(_reader(args, rule.recognizer), args.files))
    a, b = rule.recognizer.embed_utterances(utterances)
    seconds = [utterance.speech for utterance in utterances]
    scores = rule.scores(b, seconds[1], a[None], np.array(seconds[:1]))
    same = rule.accepts(scores)
    values = {name: float(column[0]) for name, column in scores.items()} | rule.as_json()
    words = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    text = f"{'one speaker' if same else 'two speakers'}: {words}; {seconds[0]:.2f} s and {seconds[1]:.2f} s of speech"
    has_voice = [utterance.has_voice for utterance in utterances]
    _print(args, {"same_speaker": same} | values | {"seconds": seconds, "voice": has_voice}, text)


def enroll(args: argparse.Namespace) -> None:
    """Enrol recordings for a speaker: all of them, or none if one cannot be used.

    Each recording is compared with the recordings of the speaker and with the
    other speakers in the folder. If it is probably from another speaker, it is
    enrolled with a warning. The comparison needs a calibration.
    """
    speakers.speaker_path(args.voices, args.name)  # raises before the recordings are embedded
    recognizer = _recognizer(args)
    results = list(_embed_files(args, recognizer))
    recordings = [result for result in results if isinstance(result, EmbeddedRecording)]
    files = {"files": [result.as_json() for result in results]}
    if len(recordings) < len(results):
        _print(args, {"speaker": args.name} | files)
    _refuse_failed(results, "; nothing was enrolled")
    speaker, remarks = enrol(args.voices, args.name, recordings, recognizer, compare=not args.force)
    for warning in remarks:
        console.warn(warning.text)
    if {warning.kind for warning in remarks} - {"enrolled_already", "not_compared"}:
        command = shlex.join(["recognize.py", "remove", "--voices", str(args.voices), speaker.name])
        console.warn(f"to remove a recording: python {command} FILE")
    result = speaker.as_json() | files | {"warnings": [warning.as_json() for warning in remarks]}
    added = len(recordings) - sum(warning.kind == "enrolled_already" for warning in remarks)
    _print(args, result, f"{speaker}; {added} added")


def list_speakers(args: argparse.Namespace) -> None:
    """Print each enrolled speaker with the number of recordings and the seconds of speech.

    --json also prints the names of the recordings.
    """
    enrolled = speakers.load_speakers(args.voices)
    lines = (f"{speaker}, checkpoint {speaker.digest[:12]}" for speaker in enrolled)
    _print(args, {"voices": [speaker.as_json() for speaker in enrolled]}, *lines)


def rename(args: argparse.Namespace) -> None:
    """Rename a speaker."""
    speakers.rename_speaker(args.voices, args.name, args.new)
    print(f"{args.name}: renamed to {args.new}")


def remove(args: argparse.Namespace) -> None:
    """Remove recordings of a speaker, or the speaker.

    The speaker is removed if no FILE is given, or if no recording would remain.
    """
    left = speakers.remove_recordings(args.voices, args.name, args.recordings)
    print(f"{left} remain" if left else f"{args.name}: removed")


def identify(args: argparse.Namespace) -> None:
    """Print the speaker of each recording, or "unknown", and a ranking.

    The enrolled speakers share the prior probability equally. With many of them,
    the answer at --prior 0.5 is often "unknown" although the correct speaker ranks
    first. --prior 0.95 accepts more recordings, but also more impostors.
    """
    rule = _decision_rule(args)
    enrolled = speakers.load_speakers(args.voices, rule.recognizer.digest)
    prototypes = np.stack([speaker.prototype for speaker in enrolled])
    seconds = np.array([speaker.speech for speaker in enrolled])
    results, answers = [], []
    for result in _embed_files(args, rule.recognizer):
        results.append(result)
        answer = result.as_json()
        if isinstance(result, EmbeddedRecording):
            scores = rule.scores(result.embedding, result.seconds, prototypes, seconds)
            answer |= rule.answer(scores, [speaker.name for speaker in enrolled])
        if args.json:
            answers.append(answer)
        elif isinstance(result, EmbeddedRecording):
            console.say(_in_words(answer))
    _print(args, rule.as_json() | {"files": answers})
    _refuse_failed(results)


def embed(args: argparse.Namespace) -> None:
    """Write embeddings as .npz or .csv.

    An .npz file contains the arrays `files` (n,) and `embeddings` (n, 256), of unit
    length. A .csv file contains one row per recording.
    """
    console.suffix_of(args.output, ".npz", ".csv")
    results = list(_embed_files(args, _recognizer(args)))
    recordings = [result for result in results if isinstance(result, EmbeddedRecording)]
    if recordings:
        save_embeddings(args.output, recordings)
    output = str(args.output) if recordings else None
    words = [f"{output}: {len(recordings):,} embeddings of {EMBEDDING_SIZE} dimensions"] if recordings else []
    _print(args, {"output": output, "files": [result.as_json() for result in results]}, *words)
    _refuse_failed(results)


def export(args: argparse.Namespace) -> None:
    """Write the encoder as ONNX or as a smaller checkpoint.

    An .onnx file maps features (batch, 1, 40, frames) to embeddings (batch, 256).
    A .pth file contains the encoder alone, in half precision.
    """
    suffix = console.suffix_of(args.output, ".onnx", ".pth")
    path, checkpoint = _load_checkpoint(args)
    if suffix == ".pth":
        try:
            save_checkpoint(args.output, checkpoint.encoder_alone())
        except ValueError as error:
            raise UserError(f"{path}: cannot be converted to half precision: {error}") from None
        print(f"{args.output}: the encoder of {path} in half precision, {args.output.stat().st_size / 1e6:.1f} MB")
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # its exporter warns of packages that are not needed here
    warnings.simplefilter("ignore", FutureWarning)  # of torch.export about its own code
    export_onnx(checkpoint.encoder().for_inference(), args.output, checkpoint.digest)
    print(f"{args.output}: features (batch, 1, 40, frames) to embedding (batch, 256)")


def _load_checkpoint(args: argparse.Namespace) -> tuple[Path, Checkpoint]:
    """Load the checkpoint that the flags name, by default the bundled model; return its file and the checkpoint.

    UsageError if the output of the subcommand would overwrite the checkpoint or another input.
    """
    if all(flag is None for flag in (args.checkpoint, args.n_folder, args.cp_num, args.model_path)):
        args.checkpoint = BUNDLED_MODEL
        console.warn(f"checkpoint: the bundled model, {BUNDLED_MODEL.name}; --checkpoint selects another")
    args.n_folder, args.model_path = args.n_folder or 0, args.model_path or MODEL_PATH
    path, checkpoint = find_checkpoint(args)
    if "output" in args:
        files = [file.removeprefix(batch.LIST_MARK) for file in getattr(args, "files", [])]
        console.refuse_overwriting(args.output, [path, *files])
    return path, checkpoint


def _recognizer(args: argparse.Namespace) -> Recognizer:
    path, checkpoint = _load_checkpoint(args)
    return Recognizer(path, args.device, checkpoint)


def _decision_rule(args: argparse.Namespace) -> DecisionRule:
    """Return the decision rule; UserError without --threshold if the checkpoint has no calibration."""
    recognizer = _recognizer(args)
    if args.threshold is None:
        recognizer.calibrated()
    return DecisionRule(recognizer, args.prior, args.threshold)


def _reader(args: argparse.Namespace, recognizer: Recognizer) -> Callable[[str], Utterance]:
    """Return a function that reads a recording, and warns if it has too little speech or else no voice."""
    least = recognizer.calibration.test_seconds[0] if recognizer.calibration else MIN_SPEECH

    def read(file: str) -> Utterance:
        utterance = read_utterance(file, args.channel, args.trim_silence)
        if utterance.speech < least:
            console.warn(f"{file}: {utterance.speech:.2f} s of speech; a reliable score needs {least:.2f} s")
        elif not utterance.has_voice:
            console.warn(f"{file}: no voice found; its scores are not meaningful")
        return utterance

    return read


def _embed_files(args: argparse.Namespace, recognizer: Recognizer) -> Iterator[EmbeddedRecording | FailedRecording]:
    """Yield the embedding of each recording that the user named, or its error."""
    others: list[str] = []
    candidates = console.progress(find_candidates(args.files), unit="file", desc="reading")
    for result in embed_each(candidates, _reader(args, recognizer), recognizer):
        if isinstance(result, FailedRecording) and result.is_other:
            others.append(result.file)
        else:
            yield result
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        console.warn(f"{others[0]}{more}: not recordings, skipped")


def _refuse_failed(results: list[EmbeddedRecording | FailedRecording], consequence: str = "") -> None:
    """Raise UserError naming the files that cannot be used, if any; also if there are no recordings."""
    errors = [result.error for result in results if isinstance(result, FailedRecording)]
    if not results:
        raise UserError("no recordings were found")
    if len(errors) > 1:
        for error in errors:
            console.warn(error)
        raise UserError(f"{len(errors):,} of {len(results):,} recordings cannot be used{consequence}")
    if errors:
        raise UserError(errors[0] + consequence)


def _print(args: argparse.Namespace, result: dict[str, Any], *lines: str) -> None:
    """Print a result as one line of JSON with --json, otherwise as text."""
    for line in [json.dumps(result)] if args.json else lines:
        print(line)


def _in_words(answer: dict[str, Any]) -> str:
    """Return an answer as one line: the speaker and the top of the ranking, with "unknown" if it has a probability."""
    by_probability = "unknown" in answer
    ranking = [(entry["speaker"], entry["probability" if by_probability else "score"]) for entry in answer["ranking"]]
    if by_probability:
        ranking = sorted([*ranking, (speakers.UNKNOWN, answer["unknown"])], key=lambda entry: -entry[1])
    shown = ", ".join(f"{name} {value:.4f}" for name, value in ranking[:RANKS_SHOWN])
    file, speaker = console.one_line(answer["file"]), answer["speaker"] or speakers.UNKNOWN
    return f"{file} ({answer['seconds']:.2f} s of speech): {speaker} [{shown}]"


if __name__ == "__main__":
    console.run(main)

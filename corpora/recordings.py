"""Anyone's own recordings into the wav tree, with a report of what is wrong with them."""

import csv
import functools
import hashlib
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from configure import FRAMES_PER_SECOND, MIN_QUERY_FRAMES, SAMPLE_RATE
from corpora.convert import write_wav
from feat_extract.audio import read_recording
from feat_extract.recording import NotAudioError, RecordingError, SilentError
from feat_extract.silence import cut_pauses
from system import console
from system.console import UsageError, UserError
from system.files import remove_unfinished_below, replacing_table, walk
from system.workers import unordered_map

SUFFIXES = set(  # a file so called is a recording, and a damaged one if it cannot be read; others are tried too
    ".wav .flac .mp3 .m4a .aac .ogg .oga .opus .aiff .aif .aifc .au .snd .caf .w64 .rf64 .webm .mka .mkv .mp4 .mov "
    ".3gp .wma .amr .awb .sph .nist .ac3 .ape .wv .mp2 .voc .gsm".split()
)
SPLITS = {"train": "vox2_dev", "test": "vox1_test"}
REPORT_NAME = "import_report.csv"
SHORT = MIN_QUERY_FRAMES / FRAMES_PER_SECOND  # seconds; training and the short tests use no less
SILENCE = 33  # peak of 16-bit samples: -60 dB of full scale
FULL_SCALE, CLIPPED = 32767, 1e-3  # the highest level, and the share of samples there from which it is remarked

NAMELESS, UNREADABLE, NOT_AUDIO = "no speaker is named for it", "unreadable", "not audio"
DAMAGED = "a damaged file has its name"  # in the tree; the user may remove it
TAKEN = "another recording has its name"  # in the tree
RULES = "a folder by its depth (1, 2), or a regular expression: '([^/_-]+)[_-]' is what is before the first _ or -"


class Recording(NamedTuple):
    """A recording, the wav to make of it, and what was found in it."""

    source: Path
    speaker: str
    wav: Path
    seconds: float = 0.0
    speech: float = 0.0  # seconds of it that are not silence
    digest: str = ""  # of its samples
    refused: str = ""  # why it was not imported
    detail: str = ""  # more about that
    remark: str = ""  # what is doubtful about it, though it was


def speaker_finder(rule: str) -> Callable[[PurePosixPath], str | None]:
    """Return a function from a path, relative to the imported folder, to its speaker, None where it names none.

    The rule is a depth (1: the first folder) or a regular expression searched in the path, whose first group, or
    else whole match, is the speaker. Raises UsageError.
    """
    if rule.isdigit():
        depth = int(rule)
        return lambda path: path.parts[depth - 1] if 0 < depth < len(path.parts) else None
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UsageError(f"--speaker_from '{rule}': neither a depth nor a regular expression ({error})") from None

    def search(path: PurePosixPath) -> str | None:
        found = pattern.search(path.as_posix())
        return found and (found[1] if pattern.groups else found[0]) or None

    return search


def plan_folder(folder: Path, tree: Path, rule: str) -> list[Recording]:
    """Choose a wav below `tree` for every file of a folder: the speaker, what else its folders say, and its name.

    See speaker_finder for the rule. Letters that a trial list could not hold become underscores, and recordings that
    differ in such letters or in their suffix alone get it added to their names. Raises UserError where two speakers
    would become one, and where no recording has one.
    """
    sources, speaker_of = find_recordings(folder, tree), speaker_finder(rule)
    recordings: list[Recording] = []
    spellings: dict[str, str] = {}
    taken: set[Path] = set()
    for source in sources:
        path = PurePosixPath(source.relative_to(folder).as_posix())
        speaker = speaker_of(path) or ""
        name = clean(speaker)
        if spellings.setdefault(name, speaker) != speaker:
            raise UserError(f"{folder}: rename a speaker: '{spellings[name]}' and '{speaker}' would both be {name}")
        video = clean("_".join(part for part in path.parts[:-1] if part != speaker)) or "all"
        wav = tree / name / video / f"{clean(path.stem)}.wav"
        while wav in taken:
            wav = wav.with_stem(f"{wav.stem}_{path.suffix[1:]}")
        taken.add(wav)
        recordings.append(Recording(source, name, wav))
    called_audio = [recording for recording in recordings if recording.source.suffix.lower() in SUFFIXES] or recordings
    if not any(recording.speaker for recording in called_audio):
        raise UserError(
            f"--import_dir {folder}: no speaker was found in the paths, such as {called_audio[0].source}; give each "
            f"speaker a folder, or say what names the speaker by --speaker_from: {RULES}"
        )
    return recordings


def import_recordings(
    recordings: list[Recording], tree: Path, root: Path, workers: int | None, channel: int | None, trim_silence: bool
) -> list[str]:
    """Write the recordings' wavs into a tree below `root` and report on them; the originals stay.

    Every file is tried. Unreadable, silent and repeated recordings are left out; short and clipped ones are only
    reported, in import_report.csv under `root` and as a summary. `channel` is counted from 1, None for the mean of
    all; `trim_silence` cuts the silence at both ends and long pauses within. Returns what to tell the user at the
    end: how many were unreadable, without a speaker or kept out by a file in the tree, if any.
    """
    remove_unfinished_below(tree)
    work = unordered_map(functools.partial(examine, channel=channel, trim_silence=trim_silence), recordings, workers)
    examined = drop_repeated(sorted(console.progress(work, total=len(recordings), unit="file", desc="import")))
    write_report(root / REPORT_NAME, examined)
    print(summary(examined))
    lost = [recording for recording in examined if recording.refused in (NAMELESS, UNREADABLE, DAMAGED, TAKEN)]
    if not lost:
        return []
    first = f"{lost[0].source}: {lost[0].refused}" + f" ({lost[0].detail})" * bool(lost[0].detail)
    return [f"{len(lost):,} recordings could not be imported, listed in {root / REPORT_NAME}; the first: {first}"]


def find_recordings(folder: Path, tree: Path) -> list[Path]:
    """Return the files below a folder that are not hidden, sorted, those called recordings first.

    UserError if there are none, or the tree itself is among them.
    """
    if not folder.is_dir():
        raise UserError(f"--import_dir {folder}: no such folder")
    inside, outside = tree.resolve(), folder.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise UserError(f"--import_dir {folder}: it and {tree} overlap; choose a --save_path apart from the recordings")
    found = [folder / place.name / name for place in walk(folder) for name in place.files if not name.startswith(".")]
    if not found:
        raise UserError(f"--import_dir {folder}: holds no files")
    return sorted(found, key=lambda path: (path.suffix.lower() not in SUFFIXES, path))


def examine(recording: Recording, channel: int | None, trim_silence: bool) -> Recording:
    """Decode a recording, write its wav unless it is of no use, and add what was found."""
    called_audio = recording.source.suffix.lower() in SUFFIXES
    if not recording.speaker and called_audio:
        return recording._replace(refused=NAMELESS)
    try:
        samples, _, remarks = read_recording(recording.source, channel)
    except SilentError:
        return recording._replace(refused="silent")
    except RecordingError as error:
        refused = NOT_AUDIO if isinstance(error, NotAudioError) and not called_audio else UNREADABLE
        return recording._replace(refused=refused, detail=error.reason)
    speech = cut_pauses(samples)
    recording = recording._replace(seconds=len(samples) / SAMPLE_RATE, speech=len(speech) / SAMPLE_RATE)
    if not recording.speaker:
        return recording._replace(refused=NAMELESS)
    return _written(recording, speech if trim_silence else samples, remarks)


def _written(recording: Recording, samples: np.ndarray, remarks: list[str]) -> Recording:
    """Write the wav of a recording unless it is silent or its name is taken, and add what was found."""
    if max(samples.max(), -int(samples.min())) < SILENCE:
        return recording._replace(refused="silent")
    wav = recording.wav
    try:
        if wav.exists() and not np.array_equal(read_recording(wav).samples, samples):
            return recording._replace(refused=TAKEN, detail=f"{wav}; rename the file, or remove the wav")
    except RecordingError as error:
        return recording._replace(refused=DAMAGED, detail=f"{error}; remove it")
    write_wav(wav, samples)
    if len(samples) / SAMPLE_RATE < SHORT:
        remarks = [*remarks, f"shorter than {SHORT:g} s"]
    if np.count_nonzero((samples >= FULL_SCALE) | (samples <= -FULL_SCALE)) > CLIPPED * len(samples):
        remarks = [*remarks, "clipped"]
    return recording._replace(digest=hashlib.sha256(samples.data).hexdigest(), remark=" and ".join(remarks))


def drop_repeated(recordings: list[Recording]) -> list[Recording]:
    """Remove the wavs whose samples an earlier one holds, and return the recordings with these refused."""
    first: dict[str, Recording] = {}
    told: list[Recording] = []
    for recording in recordings:
        original = first.setdefault(recording.digest, recording) if not recording.refused else recording
        if original is not recording:
            recording.wav.unlink()
            recording = recording._replace(refused="same content as another", detail=str(original.source))
        told.append(recording)
    return told


def write_report(path: Path, recordings: list[Recording]) -> None:
    """Write a row for every recording."""
    with replacing_table(path) as file:
        rows = csv.writer(file)
        rows.writerow(["file", "speaker", "seconds", "speech", "wav", "left_out", "detail", "remark"])
        for r in recordings:
            wav = "" if r.refused else r.wav
            times = f"{r.seconds:.2f}", f"{r.speech:.2f}"
            rows.writerow([r.source, r.speaker, *times, wav, r.refused, r.detail, r.remark])


def summary(recordings: list[Recording]) -> str:
    """Return what the report amounts to, a few lines."""
    kept = [recording for recording in recordings if not recording.refused]
    n_recordings = sum(recording.refused != NOT_AUDIO for recording in recordings)
    speakers = Counter(recording.speaker for recording in kept)
    hours = sum(recording.seconds for recording in kept) / 3600
    of_speech = sum(recording.speech for recording in kept) / 3600
    lines = [
        f"{n_recordings:,} recordings, {len(kept):,} imported: {len(speakers):,} speakers, {hours:.2f} h, "
        f"{of_speech:.2f} h of it speech"
    ]
    if speakers:
        counts = speakers.values()
        middle = statistics.median(counts)
        lines.append(f"utterances per speaker: {min(counts)} at least, {middle:g} in the middle, {max(counts)} at most")
    if len(speakers) == 1 < len(kept):
        lines.append(f"all are of one speaker, {kept[0].speaker}; if they are not, --speaker_from says: {RULES}")
    reasons = Counter(recording.refused for recording in recordings if recording.refused)
    lines += [f"left out, {reason}: {count:,}" for reason, count in reasons.most_common()]
    remarks = Counter(recording.remark for recording in kept if recording.remark)
    lines += [f"imported, but {remark}: {count:,}" for remark, count in remarks.most_common()]
    return "\n".join(lines)


def clean(text: str) -> str:
    """Return a text as a file name without blanks, which a trial list needs, and without a leading dot."""
    return re.sub(r"[^\w.-]|^\.", "_", text)

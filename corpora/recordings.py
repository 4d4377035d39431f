"""Anyone's own recordings into the wav tree, with a report of what is wrong with them."""

import csv
import functools
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from configure import FRAMES_PER_SECOND, MIN_QUERY_FRAMES, SAMPLE_RATE
from corpora.naming import (
    DAMAGED,
    TAKEN,
    Recording,
    clean,
    give_names,
    refuse_same_forms,
    speaker_folder,
    write_unnamed,
)
from feat_extract.audio import read_recording
from feat_extract.modulation import MIN_MODULATION, spectral_modulation
from feat_extract.recording import SUFFIXES, NotAudioError, RecordingError, SilentError
from feat_extract.silence import cut_pauses
from system import console
from system.console import UsageError, UserError
from system.files import files_below, remove_unfinished_below, replacing_table
from system.workers import unordered_map

SPLITS = {"train": "vox2_dev", "test": "vox1_test"}
REPORT_NAME = "import_report.csv"
SHORT = MIN_QUERY_FRAMES / FRAMES_PER_SECOND  # seconds; training and the short tests use no less
SILENCE = 33  # peak of 16-bit samples: -60 dB of full scale
FULL_SCALE, CLIPPED = 32767, 1e-3  # the highest level, and the share of samples there from which it is remarked

NAMELESS, UNREADABLE, NOT_AUDIO = "no speaker is named for it", "unreadable", "not audio"
RULES = "a folder by its depth (1, 2), or a regular expression: '([^/_-]+)[_-]' is what is before the first _ or -"


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

    See speaker_finder for the rule. Letters that a trial list could not hold become underscores. Raises UserError
    where two speakers would become one, where two names differ in their Unicode normal form alone, and where no
    recording has a speaker.
    """
    sources, speaker_of = find_recordings(folder, tree), speaker_finder(rule)
    recordings: list[Recording] = []
    speakers: dict[str, str] = {}
    paths = [PurePosixPath(source.relative_to(folder).as_posix()) for source in sources]
    refuse_same_forms(map(str, paths), folder)
    for source, path in zip(sources, paths, strict=True):
        speaker = speaker_of(path) or ""
        name = speaker_folder(speaker, speakers, folder)
        video = clean("_".join(part for part in path.parts[:-1] if part != speaker)) or "all"
        recordings.append(Recording(len(recordings), source, name, tree / name / video / f"{clean(path.stem)}.wav"))
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

    Every file is tried. Unreadable, silent and repeated recordings are left out; those that are short, clipped or
    without a voice are only reported, in import_report.csv under `root` and as a summary. `channel` is counted from 1,
    None for the mean of all; `trim_silence` cuts the silence at both ends and long pauses within. Wavs get their names
    after all recordings were read, see give_names. Returns what to tell the user at the end: how many were unreadable,
    without a speaker or kept out by a file in the tree, if any.
    """
    remove_unfinished_below(tree)
    work = unordered_map(functools.partial(examine, channel=channel, trim_silence=trim_silence), recordings, workers)
    examined = give_names(sorted(console.progress(work, total=len(recordings), unit="file", desc="import")), tree)
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
    found = files_below(folder)
    if not found:
        raise UserError(f"--import_dir {folder}: holds no files")
    return sorted(found, key=lambda path: (path.suffix.lower() not in SUFFIXES, path))


def examine(recording: Recording, channel: int | None, trim_silence: bool) -> Recording:
    """Decode a recording, write its samples unless they are useless or in the tree, and add what was found."""
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
    if spectral_modulation(speech) < MIN_MODULATION:
        remarks = [*remarks, "no voice found"]
    return _written(recording, speech if trim_silence else samples, remarks)


def _written(recording: Recording, samples: np.ndarray, remarks: list[str]) -> Recording:
    """Write the samples of a recording unless they are silent or in one of its wavs, and add what was found."""
    if max(samples.max(), -int(samples.min())) < SILENCE:
        return recording._replace(refused="silent")
    recording = write_unnamed(recording, samples)
    if len(samples) / SAMPLE_RATE < SHORT:
        remarks = [*remarks, f"shorter than {SHORT:g} s"]
    if np.count_nonzero((samples >= FULL_SCALE) | (samples <= -FULL_SCALE)) > CLIPPED * len(samples):
        remarks = [*remarks, "clipped"]
    return recording._replace(remark=" and ".join(remarks))


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

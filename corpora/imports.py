"""Import recordings into a wav tree, and report what is wrong with them."""

import csv
import functools
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from configure import AUDIO_SUFFIXES, FRAMES_PER_SECOND, MIN_QUERY_FRAMES, SAMPLE_RATE, TREES
from corpora.naming import (
    CONFLICT,
    IN_TREE,
    TAKEN,
    ImportedFile,
    clean,
    name_wavs,
    speaker_folder,
    with_existing_suffixes,
    write_temporary,
)
from corpora.old_features import report_removed
from feat_extract.audio import read_recording
from feat_extract.modulation import MIN_MODULATION, spectral_modulation
from feat_extract.recording import NotAudioError, RecordingError, SilentError
from feat_extract.silence import trim_samples
from system import console
from system.console import UsageError, UserError
from system.files import files_below, read_lines, remove_unfinished_below, replacing_table
from system.workers import unordered_map

SPLITS = {"train": "vox2_dev", "test": "vox1_test"}
REPORT_NAME = "import_report.csv"
COLUMNS = ("split", "file", "speaker", "seconds", "speech", "wav", "left_out", "detail", "remark")
SHORT = MIN_QUERY_FRAMES / FRAMES_PER_SECOND  # seconds: the shortest query of training
SILENCE = 33  # 16-bit; recordings with a lower peak (-60 dBFS) are skipped as silent
FULL_SCALE, CLIPPED = 32767, 1e-3  # a recording with a larger share of samples at full scale is reported as clipped

NAMELESS, UNREADABLE, NOT_AUDIO, SILENT = "no speaker", "unreadable", "not audio", "silent"
RULES = "a depth (1, 2), or a regular expression: '([^/_-]+)[_-]' takes the text before the first _ or -"


def tree_of(root: Path, split: str) -> Path:
    """Return the wav tree of a split below `root`."""
    return root / TREES[SPLITS[split]].wav


def speaker_pattern(rule: str) -> re.Pattern[str]:
    """Return a pattern that finds the speaker in a path: the first group, or the match if the pattern has no group.

    The rule is the depth of the folder that names the speaker (1: the first), or a regular expression. UsageError for
    any other rule.
    """
    if rule.isdecimal() and int(rule) < 1:
        raise UsageError(f"--speaker_from {rule}: the depth of a folder is 1 or more")
    try:
        return re.compile(rf"^(?:[^/]*/){{{int(rule) - 1}}}([^/]+)/" if rule.isdecimal() else rule)
    except (re.error, OverflowError) as error:
        raise UsageError(f"--speaker_from '{rule}': neither a depth nor a regular expression ({error})") from None


def plan_folder(folder: Path, tree: Path, rule: str) -> list[ImportedFile]:
    """Return the files of a folder, each with its speaker and its wav path <tree>/<speaker>/<other folders>/<name>.wav.

    See speaker_pattern for the rule. Blanks and punctuation become underscores. If an earlier file of the folder has
    the same wav path, the suffix of the file is added to the name of the wav. UserError if two speakers would get the
    same folder, or if no recording has a speaker.
    """
    sources, pattern = find_recordings(folder, tree), speaker_pattern(rule)
    files: list[ImportedFile] = []
    speakers: dict[str, str] = {}
    taken: set[Path] = set()
    for source in sources:
        path = PurePosixPath(source.relative_to(folder).as_posix())
        found = pattern.search(path.as_posix())
        speaker = (found[1 if pattern.groups else 0] or "") if found else ""
        name = speaker_folder(speaker, speakers, folder)
        video = clean("_".join(part for part in path.parts[:-1] if part != speaker)) or "all"
        wav = tree / name / video / f"{clean(path.stem)}.wav"
        if wav in taken:
            wav = wav.with_name(f"{clean(f'{path.stem}_{source.suffix[1:]}')}.wav")
        taken.add(wav)
        files.append(ImportedFile(len(files), source, name, wav, source.suffix.lower() in AUDIO_SUFFIXES))
    recordings = [file for file in files if file.is_recording] or files
    if not any(file.speaker for file in recordings):
        raise UserError(
            f"--import_dir {folder}: no path names a speaker, for example {recordings[0].source}; put each "
            f"speaker into a folder, or describe where the path names the speaker with --speaker_from: {RULES}"
        )
    return files


def import_files(
    files: list[ImportedFile],
    split: str,
    root: Path,
    workers: int | None,
    channel: int | None,
    trim_silence: bool,
) -> list[str]:
    """Write the files' wavs into the tree of a split below `root`, and import_report.csv into `root`; print a summary.

    Every file is read. Unreadable, silent and repeated recordings are skipped; short and clipped ones and those without
    a voice are imported with a remark. `channel` is counted from 1, None for the mean of all channels; `trim_silence`
    removes silence at both ends and long pauses. The wavs get their names at the end. If the import fails before,
    nothing of it is kept.

    Returns a list with one error message if recordings were unreadable, without a speaker, the same as a recording of
    another speaker, or not written because the tree has another wav of the same name, or if the tree has none of the
    recordings; otherwise an empty list. UserError if the tree cannot be written.
    """
    tree = tree_of(root, split)
    remove_unfinished_below(tree)
    earlier = {path.name for path in tree.glob("*")}
    files = with_existing_suffixes(files, tree)
    work = unordered_map(functools.partial(examine, channel=channel, trim_silence=trim_silence), files, workers)
    with _removing_unfinished(tree), closing(work):
        found = sorted(console.progress(work, total=len(files), unit="file", desc="import"))
        examined, n_removed = name_wavs(found, tree, root)
    write_report(root / REPORT_NAME, split, examined)
    print(summary(examined, earlier))
    report_removed(n_removed)
    lost = [file for file in examined if file.skipped in (NAMELESS, UNREADABLE, TAKEN, CONFLICT)]
    if not lost:
        anything = any(not file.skipped or file.skipped == IN_TREE for file in examined)
        return [] if anything else [f"no recordings imported; {root / REPORT_NAME} lists the reasons"]
    first = f"{lost[0].source}: {lost[0].skipped}" + f" ({lost[0].detail})" * bool(lost[0].detail)
    return [f"recordings not imported: {len(lost):,}, listed in {root / REPORT_NAME}; the first is {first}"]


@contextmanager
def _removing_unfinished(tree: Path) -> Iterator[None]:
    """Remove the temporary files below a tree after an error in the block; an OSError becomes a UserError."""
    with ExitStack() as stack:
        stack.callback(remove_unfinished_below, tree)
        try:
            yield
        except OSError as error:
            reason = f"{tree}: {error.strerror or error}; the import is not finished"
            raise UserError(f"{reason}; fix this and import again from the start") from None
        stack.pop_all()


def find_recordings(folder: Path, tree: Path) -> list[Path]:
    """Return the files below a folder, sorted, those with an audio suffix first; hidden files are excluded.

    UserError if there are no files, and if the folder and the tree overlap.
    """
    if not folder.is_dir():
        raise UserError(f"--import_dir {folder}: no such folder")
    inside, outside = tree.resolve(), folder.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise UserError(f"--import_dir {folder}: overlaps with {tree}; choose a --save_path outside the recordings")
    found = files_below(folder)
    if not found:
        raise UserError(f"--import_dir {folder}: contains no files")
    return sorted(found, key=lambda path: (path.suffix.lower() not in AUDIO_SUFFIXES, path))


def examine(file: ImportedFile, channel: int | None, trim_silence: bool) -> ImportedFile:
    """Decode a recording into a temporary wav; return the file with durations, remarks or the reason for skipping."""
    if not file.speaker and file.is_recording:
        return file._replace(skipped=NAMELESS)
    if file.source.exists() and not file.source.is_file():  # a pipe would block
        return file._replace(skipped=UNREADABLE, detail="not a regular file")
    try:
        samples, _, remarks = read_recording(file.source, channel)
    except SilentError:
        return file._replace(skipped=SILENT)
    except RecordingError as error:
        skipped = NOT_AUDIO if isinstance(error, NotAudioError) and not file.is_recording else UNREADABLE
        return file._replace(skipped=skipped, detail=error.reason)
    speech = trim_samples(samples)
    file = file._replace(seconds=len(samples) / SAMPLE_RATE, speech=len(speech) / SAMPLE_RATE)
    if not file.speaker:
        return file._replace(skipped=NAMELESS)
    if trim_silence:
        samples = speech
    if max(samples.max(), -int(samples.min())) < SILENCE:
        return file._replace(skipped=SILENT)
    if spectral_modulation(speech) < MIN_MODULATION:
        remarks.append("no voice found")
    if len(samples) / SAMPLE_RATE < SHORT:
        remarks.append(f"shorter than {SHORT:g} s")
    if np.count_nonzero(np.abs(samples.astype(int)) >= FULL_SCALE) > CLIPPED * len(samples):
        remarks.append("clipped")
    return write_temporary(file, samples)._replace(remark=" and ".join(remarks))


def write_report(path: Path, split: str, files: list[ImportedFile]) -> None:
    """Write import_report.csv, one row per file; the rows of the last import into another split are kept."""
    lines = read_lines(path, "no such report") if path.exists() else []
    others = [row for row in csv.DictReader(lines) if row.get("split") not in (None, split)]
    with replacing_table(path) as table:
        rows = csv.writer(table)
        rows.writerow(COLUMNS)
        rows.writerows([row.get(name, "") for name in COLUMNS] for row in others)
        for f in files:
            wav = "" if f.skipped else f.wav
            times = f"{f.seconds:.2f}", f"{f.speech:.2f}"
            rows.writerow([split, f.source, f.speaker, *times, wav, f.skipped, f.detail, f.remark])


def summary(files: list[ImportedFile], earlier: set[str]) -> str:
    """Return a summary of the import, a few lines; `earlier` are the speakers that the tree had before."""
    kept = [file for file in files if not file.skipped]
    n_recordings = sum(file.skipped != NOT_AUDIO for file in files)
    speakers = Counter(file.speaker for file in kept)
    hours, of_speech = sum(file.seconds for file in kept) / 3600, sum(file.speech for file in kept) / 3600
    lines = [f"{n_recordings:,} recordings, {len(kept):,} imported: {len(speakers):,} speakers, {hours:.2f} h"]
    lines[0] += f", {of_speech:.2f} h of speech"
    if speakers:
        counts = speakers.values()
        median = statistics.median(counts)
        lines.append(f"utterances per speaker: minimum {min(counts)}, median {median:g}, maximum {max(counts)}")
    if again := speakers.keys() & earlier:
        lines.append(f"added to speakers that the tree already had: {len(again):,}, for example {min(again)}")
    if len(speakers) == 1 < len(kept):
        lines.append(f"all recordings are from one speaker, {kept[0].speaker}; if not, use --speaker_from: {RULES}")
    reasons = Counter(file.skipped for file in files if file.skipped)
    lines += [f"skipped, {reason}: {count:,}" for reason, count in reasons.most_common()]
    remarks = Counter(file.remark for file in kept if file.remark)
    lines += [f"imported with a remark, {remark}: {count:,}" for remark, count in remarks.most_common()]
    return "\n".join(lines)

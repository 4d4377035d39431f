"""Anyone's own recordings into the wav tree, with a report of what is wrong with them."""

import csv
import hashlib
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from configure import FRAMES_PER_SECOND, MIN_QUERY_FRAMES, SAMPLE_RATE, TREES
from corpora.convert import DecodeError, decode, write_wav
from system import console
from system.console import UsageError, UserError
from system.files import remove_unfinished_below, replacing, walk
from system.workers import unordered_map

SUFFIXES = {".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus"}
SPLITS = {"train": "vox2_dev", "test": "vox1_test"}
REPORT_NAME = "import_report.csv"
SHORT = MIN_QUERY_FRAMES / FRAMES_PER_SECOND  # seconds; training and the short tests use no less
SILENCE = 33  # peak of 16-bit samples: -60 dB of full scale
FULL_SCALE, CLIPPED = 32767, 1e-3  # the highest level, and the share of samples there from which it is remarked

NAMELESS, UNREADABLE = "no speaker in its path", "unreadable"
DAMAGED = "a damaged file has its name"  # in the tree; the user may remove it

SpeakerOf = Callable[[PurePosixPath], str | None]


class Recording(NamedTuple):
    """A recording and the wav to make of it."""

    source: Path
    speaker: str
    wav: Path


class Finding(NamedTuple):
    """What was found in a recording."""

    source: Path
    speaker: str
    wav: Path
    seconds: float = 0.0
    digest: str = ""  # of its samples
    refused: str = ""  # why it was not imported
    detail: str = ""  # more about that
    remark: str = ""  # what is doubtful about it, though it was


def speaker_finder(rule: str) -> SpeakerOf:
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


def import_folder(folder: Path, root: Path, split: str, rule: str, workers: int | None) -> list[str]:
    """Convert a folder's recordings into the tree that a split names and report on them; the originals stay.

    Unreadable, silent and repeated recordings are left out; short and clipped ones are only reported, in
    import_report.csv under `root` and as a summary. Returns what to tell the user at the end: how many were
    unreadable, without a speaker or kept out by a damaged file in the tree, if any.
    """
    tree, speaker_of = root / TREES[SPLITS[split]].wav, speaker_finder(rule)
    recordings = plan(find_recordings(folder, tree), folder, tree, speaker_of)
    remove_unfinished_below(tree)
    findings = []
    with console.progress(total=len(recordings), unit="file", desc="import") as bar:
        for finding in unordered_map(examine, recordings, workers):
            findings.append(finding)
            bar.update()
    findings = drop_repeated(sorted(findings))
    write_report(root / REPORT_NAME, findings)
    print(summary(findings))
    lost = [finding for finding in findings if finding.refused in (NAMELESS, UNREADABLE, DAMAGED)]
    if not lost:
        return []
    first = f"{lost[0].source}: {lost[0].refused}" + f" ({lost[0].detail})" * bool(lost[0].detail)
    return [f"{len(lost):,} recordings could not be imported, listed in {root / REPORT_NAME}; the first: {first}"]


def find_recordings(folder: Path, tree: Path) -> list[Path]:
    """Return the audio files below a folder, sorted; UserError if there are none, or the tree itself is among them."""
    if not folder.is_dir():
        raise UserError(f"--import_dir {folder}: no such folder")
    inside, outside = tree.resolve(), folder.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise UserError(f"--import_dir {folder}: it and {tree} overlap; choose a --save_path apart from the recordings")
    found = sorted(folder / f"{name}{suffix}" for place in walk(folder) for name, suffix in place.having(*SUFFIXES))
    if not found:
        raise UserError(f"--import_dir {folder}: holds no {', '.join(sorted(SUFFIXES))} file")
    return found


def plan(sources: list[Path], folder: Path, tree: Path, speaker_of: SpeakerOf) -> list[Recording]:
    """Choose a wav for every recording: the speaker, then what else its folders say, then its name.

    Letters that a trial list could not hold become underscores, and recordings that differ in such letters or in
    their suffix alone get it added to their names. Raises UserError where two speakers would become one.
    """
    recordings: list[Recording] = []
    spellings: dict[str, str] = {}
    taken: set[Path] = set()
    for source in sources:
        path = PurePosixPath(source.relative_to(folder).as_posix())
        speaker = speaker_of(path) or ""
        clean = _clean(speaker)
        if spellings.setdefault(clean, speaker) != speaker:
            raise UserError(f"{folder}: rename a speaker: '{spellings[clean]}' and '{speaker}' would both be {clean}")
        video = _clean("_".join(part for part in path.parts[:-1] if part != speaker)) or "all"
        wav = tree / clean / video / f"{_clean(path.stem)}.wav"
        while wav in taken:
            wav = wav.with_stem(f"{wav.stem}_{path.suffix[1:]}")
        taken.add(wav)
        recordings.append(Recording(source, clean, wav))
    return recordings


def examine(recording: Recording) -> Finding:
    """Decode a recording, write its wav unless it is of no use, and say what was found."""
    source, speaker, wav = recording
    if not speaker:
        return Finding(source, speaker, wav, refused=NAMELESS)
    try:
        samples = decode(source)
    except DecodeError as error:
        return Finding(source, speaker, wav, refused=UNREADABLE, detail=str(error))
    seconds = len(samples) / SAMPLE_RATE
    level = np.abs(samples.astype(np.int32))
    if level.max() < SILENCE:
        return Finding(source, speaker, wav, seconds, refused="silent")
    try:
        if wav.exists() and not np.array_equal(decode(wav), samples):
            return Finding(source, speaker, wav, seconds, refused="another recording has its name", detail=str(wav))
    except DecodeError as error:
        return Finding(source, speaker, wav, seconds, refused=DAMAGED, detail=f"{wav}: {error}; remove it")
    write_wav(wav, samples)
    remarks = []
    if seconds < SHORT:
        remarks.append(f"shorter than {SHORT:g} s")
    if (level >= FULL_SCALE).mean() > CLIPPED:
        remarks.append("clipped")
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    return Finding(source, speaker, wav, seconds, digest, remark=" and ".join(remarks))


def drop_repeated(findings: list[Finding]) -> list[Finding]:
    """Remove the wavs whose samples an earlier one holds, and return the findings with these refused."""
    first: dict[str, Finding] = {}
    kept: list[Finding] = []
    for finding in findings:
        original = first.setdefault(finding.digest, finding) if not finding.refused else finding
        if original is not finding:
            finding.wav.unlink()
            finding = finding._replace(refused="same content as another", detail=str(original.source))
        kept.append(finding)
    return kept


def write_report(path: Path, findings: list[Finding]) -> None:
    """Write a row for every recording."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "speaker", "seconds", "wav", "left_out", "detail", "remark"])
        for f in findings:
            wav = "" if f.refused else f.wav
            rows.writerow([f.source, f.speaker, f"{f.seconds:.2f}", wav, f.refused, f.detail, f.remark])


def summary(findings: list[Finding]) -> str:
    """Return what the report amounts to, a few lines."""
    kept = [finding for finding in findings if not finding.refused]
    per_speaker = Counter(finding.speaker for finding in kept).values() or [0]
    lines = [
        f"{len(findings):,} recordings, {len(kept):,} imported: {len(per_speaker):,} speakers, "
        f"{sum(finding.seconds for finding in kept) / 3600:.2f} h",
        f"utterances per speaker: {min(per_speaker)} at least, {statistics.median(per_speaker):g} in the middle, "
        f"{max(per_speaker)} at most",
    ]
    reasons = Counter(finding.refused for finding in findings if finding.refused)
    lines += [f"left out, {reason}: {count:,}" for reason, count in reasons.most_common()]
    remarks = Counter(finding.remark for finding in kept if finding.remark)
    lines += [f"imported, but {remark}: {count:,}" for remark, count in remarks.most_common()]
    return "\n".join(lines)


def _clean(text: str) -> str:
    """Return a text as a file name without blanks, which a trial list needs, and without a leading dot."""
    return re.sub(r"[^\w.-]|^\.", "_", text)

"""Kaldi data directories: wav.scp and utt2spk."""

import unicodedata
from pathlib import Path

from corpora.naming import ImportedFile, clean, speaker_folder, tell_apart
from system import console
from system.console import UsageError, UserError
from system.files import read_lines


def plan_list(scp: Path, utt2spk: Path | None, tree: Path) -> list[ImportedFile]:
    """Choose a wav below `tree` for every recording of a wav.scp, lines `UTTERANCE PATH`.

    A relative path counts from the working directory, as in Kaldi, or else from the list's own folder. Speakers come
    from `utt2spk` or, without it, from the file of that name beside the list; an utterance that it lacks has none.
    UsageError if there is no such file. UserError naming the list and line for a command in place of a path, which is
    never run, for an utterance whose wav another one has, and for a speaker whose folder another one has.
    """
    beside = scp.with_name("utt2spk")
    if utt2spk is None and not beside.is_file():
        raise UsageError(f"--import_list {scp}: who speaks? --utt2spk FILE has lines UTTERANCE SPEAKER")
    if scp.with_name("segments").is_file():
        console.warn(f"{scp.with_name('segments')}: not read; recordings are imported whole")
    utt2spk = utt2spk or beside
    speaker_of: dict[str, str] = {}
    for number, name, speaker in _pairs(utt2spk, "UTTERANCE SPEAKER"):
        if (other := speaker_of.setdefault(unicodedata.normalize("NFC", name), speaker)) != speaker:
            raise UserError(f"{utt2spk}: line {number}: '{name}' has speaker '{speaker}', in an earlier line '{other}'")
    files: list[ImportedFile] = []
    taken: dict[Path, str] = {}
    speakers: dict[str, str] = {}
    for number, name, path in _pairs(scp, "UTTERANCE PATH"):
        if path.endswith("|") or path.startswith("|"):
            raise UserError(f"{scp}: line {number}: '{path[:80]}' is a command; commands are not run, write its output")
        speaker = speaker_folder(speaker_of.get(unicodedata.normalize("NFC", name), ""), speakers, utt2spk)
        wav = tree / speaker / "all" / f"{clean(name)}.wav"
        if taken.setdefault(wav, name) is not name:
            raise UserError(f"{scp}: line {number}: would be written to the same wav: {tell_apart(taken[wav], name)}")
        source = Path(path)
        source = source if source.exists() else scp.parent / source
        files.append(ImportedFile(len(files), source, speaker, wav))
    return files


def _pairs(path: Path, form: str) -> list[tuple[int, str, str]]:
    """Return number, first word and rest of every line that is not blank; UserError for a line without a rest."""
    pairs: list[tuple[int, str, str]] = []
    for number, line in enumerate(read_lines(path, "no such list"), 1):
        words = line.strip().split(maxsplit=1)
        if len(words) == 1:
            raise UserError(f"{path}: line {number}: '{line.strip()[:80]}' is not of the form '{form}'")
        if words:
            pairs.append((number, words[0], words[1]))
    if not pairs:
        raise UserError(f"{path}: holds nothing")
    return pairs

"""Read Kaldi data directories: wav.scp and utt2spk."""

import unicodedata
from pathlib import Path

from corpora.naming import ImportedFile, clean, describe_both, speaker_folder
from system import console
from system.console import UsageError, UserError
from system.files import read_rows


def plan_list(scp: Path, utt2spk: Path | None, tree: Path) -> list[ImportedFile]:
    """Return the recordings of a wav.scp, lines `UTTERANCE PATH`, each with its speaker and a wav below `tree`.

    A relative path is relative to the working directory, as in Kaldi, or else to the folder of the list. Speakers are
    read from `utt2spk`, by default the file of that name next to the list; an utterance that it does not contain has
    no speaker. UsageError without utt2spk. UserError with the list and line for a command in place of a path, which is
    never run, and for two utterances or speakers that would get the same name in the tree.
    """
    utt2spk = utt2spk or scp.with_name("utt2spk")
    if not utt2spk.is_file():
        raise UsageError(f"{utt2spk}: no such list; add --utt2spk FILE, lines UTTERANCE SPEAKER")
    if scp.with_name("segments").is_file():
        console.warn(f"{scp.with_name('segments')}: not read; full recordings are imported")
    speaker_of: dict[str, str] = {}
    for number, (name, speaker) in read_rows(utt2spk, "UTTERANCE SPEAKER"):
        if (other := speaker_of.setdefault(unicodedata.normalize("NFC", name), speaker)) != speaker:
            raise UserError(f"{utt2spk}: line {number}: '{name}' has speaker '{speaker}', in an earlier line '{other}'")
    files: list[ImportedFile] = []
    taken: dict[Path, str] = {}
    speakers: dict[str, str] = {}
    for number, (name, path) in read_rows(scp, "UTTERANCE PATH"):
        if path.endswith("|") or path.startswith("|"):
            raise UserError(f"{scp}: line {number}: '{path[:80]}' is a command and was not run; name a file instead")
        speaker = speaker_folder(speaker_of.get(unicodedata.normalize("NFC", name), ""), speakers, utt2spk)
        wav = tree / speaker / "all" / f"{clean(name)}.wav"
        if earlier := taken.get(wav):
            reason = f"rename an utterance, one wav for {describe_both(earlier, name)}"
            if earlier == name:
                reason = f"'{name}' is listed twice"
            raise UserError(f"{scp}: line {number}: {reason}")
        taken[wav] = name
        source = Path(path)
        source = source if source.exists() else scp.parent / source
        files.append(ImportedFile(len(files), source, speaker, wav))
    return files

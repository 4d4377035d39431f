"""Enrolling recordings, and doubts whether they are of the speaker for whom they are enrolled."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recognition import speakers
from recognition.batch import Embedded, columns
from recognition.recognizer import Recognizer
from recognition.speakers import Voice

NO_CALIBRATION = (
    "this checkpoint has no calibration, so only repeated recordings were looked for; EER_short.py --calibrate True "
    "fits one"
)


class Doubt(NamedTuple):
    """A reason to doubt a recording, or something that could not be compared."""

    file: str | None  # the recording
    kind: str  # "enrolled_already", "same_recording", "different_speaker", "better_match" or "not_compared"
    details: dict[str, str | float]  # the speaker and recording it was compared with, the log-likelihood ratios
    text: str  # all of this as a line

    @property
    def is_of_speaker(self) -> bool:
        """Whether the recording was enrolled and may be of another speaker."""
        return self.kind in ("same_recording", "different_speaker", "better_match")

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints of it."""
        return {"file": self.file, "warning": self.kind} | self.details


def enrol(
    folder: Path, name: str, recordings: Sequence[Embedded], recognizer: Recognizer, compare: bool = True
) -> tuple[Voice, list[Doubt]]:
    """Add recordings to the voice of a speaker in a folder, both made if need be; return it and what is doubtful.

    A recording that the voice has already is left out. With `compare` the others are compared with each other, with
    the voice and with the other voices in the folder. UserError if the name is not valid, or the voice is damaged or
    of another checkpoint.
    """
    embeddings, files, seconds = columns(recordings)
    with speakers.changing(folder):
        voice = speakers.find_voice(folder, name, recognizer.digest)
        new, found = _without_repeated(voice, Voice(voice.name, embeddings, files, seconds, recognizer.digest))
        if compare:
            others, troubles = speakers.load_others(folder, voice.name, recognizer.digest)
            found += doubts(voice, new, others, recognizer)
            if recognizer.calibration is None:
                troubles.append(NO_CALIBRATION)
            found += [Doubt(None, "not_compared", {"reason": text}, f"not compared: {text}") for text in troubles]
        voice = voice.extended(new.embeddings, new.files, new.seconds)
        speakers.save_voice(folder, voice)
    return voice, found


def doubts(voice: Voice, new: Voice, others: Sequence[Voice], recognizer: Recognizer) -> list[Doubt]:
    """Return what is doubtful about adding new recordings to a voice, given the other voices.

    A recording may be enrolled for another speaker. The other doubts need a calibration: the log-likelihood ratio (LLR)
    of the recording with the voice is below 0, or that with one of n other voices exceeds it, and 0, by log(n), which
    makes the other speaker more probable if the given name is right with a prior probability of 0.5. If the voice has
    no recordings yet, the new ones are compared with each other.
    """
    found: list[Doubt] = []
    extends = len(voice.files) > 0
    own_llr = _own_llr(voice, new, recognizer)
    for file, embedding, speech, own in zip(new.files.tolist(), new.embeddings, new.seconds, own_llr, strict=True):
        copies = {other.name: same for other in others if (same := other.file_of(embedding)) is not None}
        for name, same in copies.items():
            text = f"{file}: the same recording is enrolled for {name}, as {same}"
            found.append(Doubt(file, "same_recording", {"speaker": name, "recording": same}, text))
        if own < 0:
            compared = f"the recordings of {voice.name}" if extends else "the other new recordings"
            text = f"{file}: probably not {voice.name}: LLR {own:+.2f} with {compared}"
            found.append(Doubt(file, "different_speaker", {"speaker": voice.name, "llr": own}, text))
        if others and recognizer.calibration:
            name, llr = _best_match(embedding, speech, others, recognizer)
            least = math.log(len(others)) + (max(own, 0) if extends else 0)
            if llr > least and name not in copies:
                text = f"{file}: matches {name} (LLR {llr:+.2f})"
                text += f" better than {voice.name} (LLR {own:+.2f})" if extends else ""
                found.append(Doubt(file, "better_match", {"speaker": name, "llr": llr}, text))
    return found


def _without_repeated(voice: Voice, new: Voice) -> tuple[Voice, list[Doubt]]:
    """Return the new recordings that a voice does not have yet, each once, and a doubt for each of the others."""
    found: list[Doubt] = []
    rows: list[int] = []
    for row, (file, embedding) in enumerate(zip(new.files.tolist(), new.embeddings, strict=True)):
        same = voice.file_of(embedding) or new.rows(rows).file_of(embedding)
        if same is None:
            rows.append(row)
        else:
            text = f"{file}: enrolled for {voice.name} already, left out"
            found.append(Doubt(file, "enrolled_already", {"recording": same}, text))
    return new.rows(rows), found


def _best_match(
    embedding: np.ndarray, speech: float, others: Sequence[Voice], recognizer: Recognizer
) -> tuple[str, float]:
    """Return the voice with the largest LLR with a recording, and that LLR."""
    prototypes, seconds = np.stack([voice.prototype for voice in others]), [voice.speech for voice in others]
    llr = recognizer.llr(embedding, prototypes, speech, seconds)
    return others[int(llr.argmax())].name, float(llr.max())


def _own_llr(voice: Voice, new: Voice, recognizer: Recognizer) -> list[float]:
    """Return the LLR (n,) of each new recording with the voice; NaN without a calibration and for a first recording.

    If the voice has no recordings, the new ones that agree with each other stand for it: while one has an LLR below 0
    with all others together, the one with the lowest is excluded.
    """
    if recognizer.calibration is None:
        return [math.nan] * len(new.files)
    if len(voice.files):
        return recognizer.llr(new.embeddings, voice.prototype, new.seconds, voice.speech).tolist()
    agreeing = list(range(len(new.files)))
    while len(agreeing) > 1:
        llr = [_llr_with(agreeing, row, new, recognizer) for row in agreeing]
        lowest = min(range(len(llr)), key=lambda at: (round(llr[at], 6), -at))  # of equal ones the last
        if llr[lowest] >= 0:
            break
        del agreeing[lowest]
    return [_llr_with(agreeing, row, new, recognizer) for row in range(len(new.files))]


def _llr_with(rows: list[int], row: int, new: Voice, recognizer: Recognizer) -> float:
    """Return the LLR of a new recording with those in some rows, but for itself; NaN if there are none."""
    rest = new.rows([other for other in rows if other != row])
    if not len(rest.files):
        return math.nan
    return float(recognizer.llr(new.embeddings[row], rest.prototype, new.seconds[row], rest.speech))

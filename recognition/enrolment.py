"""Enrol recordings, and warn of recordings that may be from another speaker than the given one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recognition.batch import EmbeddedRecording
from recognition.recognizer import Recognizer
from recognition.speakers import Speaker, changing, find_same, find_speaker, load_others, save_speaker

NO_CALIBRATION = (
    "this checkpoint has no calibration, so only repeated recordings are detected; fit a calibration with "
    "EER_short.py --calibrate True"
)


class EnrolmentWarning(NamedTuple):
    """A warning that a recording was skipped, may be from another speaker, or could not be compared."""

    file: str | None  # the recording; None if the warning is for all new recordings
    kind: str  # "enrolled_already", "same_recording", "different_speaker", "better_match" or "not_compared"
    details: dict[str, str | float]  # speaker, recording, LLR or reason, as --json prints them
    text: str  # the warning in one line

    def as_json(self) -> dict[str, Any]:
        """Return the entry of --json for the warning."""
        return {"file": self.file, "warning": self.kind} | self.details


def enrol(
    folder: Path, name: str, recordings: Sequence[EmbeddedRecording], recognizer: Recognizer, compare: bool = True
) -> tuple[Speaker, list[EnrolmentWarning]]:
    """Add recordings to a speaker in a folder, create both if necessary, and return the speaker and warnings.

    A recording that the speaker already has is skipped. With `compare`, the other recordings are compared with the
    other speakers in the folder, and with the recordings of the speaker or, if there are none, with each other.
    UserError if the name is invalid, or if the speaker's file is damaged or belongs to another checkpoint.
    """
    with changing(folder):
        speaker = find_speaker(folder, name, recognizer.digest)
        new: list[EmbeddedRecording] = []
        warnings: list[EnrolmentWarning] = []
        for recording in recordings:
            same = find_same([*speaker.recordings, *new], recording)
            if same is None:
                new.append(recording)
            else:
                text = f"{recording.file}: already enrolled for {speaker.name}, skipped"
                warnings.append(EnrolmentWarning(recording.file, "enrolled_already", {"recording": same}, text))
        if compare:
            others, errors = load_others(folder, speaker.name, recognizer.digest)
            warnings += find_mismatches(speaker, new, others, recognizer)
            errors += [] if recognizer.calibration else [NO_CALIBRATION]
            warnings += [EnrolmentWarning(None, "not_compared", {"reason": e}, f"not compared: {e}") for e in errors]
        speaker = speaker._replace(recordings=(*speaker.recordings, *new))
        save_speaker(folder, speaker)
    return speaker, warnings


def find_mismatches(
    speaker: Speaker, new: Sequence[EmbeddedRecording], others: Sequence[Speaker], recognizer: Recognizer
) -> list[EnrolmentWarning]:
    """Return warnings for new recordings that may be from another speaker.

    same_recording: the recording is enrolled for another speaker. The other two kinds need a calibration.
    different_speaker: the log-likelihood ratio (LLR) of the recording with the given speaker is below 0.
    better_match: the LLR with one of n other speakers is above log(n), and above the LLR with the given speaker plus
    log(n). Then the other speaker is more probable, if the prior probability of the given speaker is 0.5 and the n
    others share the rest equally. If the given speaker has no recordings yet, the new recordings are compared with
    each other for different_speaker, and the second condition of better_match is omitted.
    """
    warnings: list[EnrolmentWarning] = []
    for recording, own in zip(new, _own_llr(speaker, new, recognizer), strict=True):
        file = recording.file
        copies = {other.name: same for other in others if (same := find_same(other.recordings, recording)) is not None}
        for name, same in copies.items():
            text = f"{file}: the same recording is enrolled for {name}, as {same}"
            warnings.append(EnrolmentWarning(file, "same_recording", {"speaker": name, "recording": same}, text))
        if own < 0:
            compared = f"the recordings of {speaker.name}" if speaker.recordings else "the other new recordings"
            text = f"{file}: probably not {speaker.name}: LLR {own:+.2f} with {compared}"
            warnings.append(EnrolmentWarning(file, "different_speaker", {"speaker": speaker.name, "llr": own}, text))
        if others and recognizer.calibration:
            prototypes, seconds = np.stack([other.prototype for other in others]), [other.speech for other in others]
            llr = recognizer.llr(recording.embedding, prototypes, recording.seconds, seconds)
            name, best = others[int(llr.argmax())].name, float(llr.max())
            least = math.log(len(others)) + (max(own, 0) if speaker.recordings else 0)
            if best > least and name not in copies:
                text = f"{file}: matches {name} (LLR {best:+.2f})"
                text += f" better than {speaker.name} (LLR {own:+.2f})" if speaker.recordings else ""
                warnings.append(EnrolmentWarning(file, "better_match", {"speaker": name, "llr": best}, text))
    return warnings


def _own_llr(speaker: Speaker, new: Sequence[EmbeddedRecording], recognizer: Recognizer) -> list[float]:
    """Return the LLR (n,) of each new recording with the given speaker; NaN if it cannot be computed.

    It needs a calibration, and another recording of the speaker. If the speaker has no recordings yet, each new
    recording is compared with the new recordings that agree. To find these, the recording with the lowest LLR with all
    others is excluded, again and again, until this LLR is not below 0.
    """

    def llr(recording: EmbeddedRecording, recordings: Sequence[EmbeddedRecording]) -> float:
        rest = speaker._replace(recordings=tuple(other for other in recordings if other is not recording))
        if not (rest.recordings and recognizer.calibration):
            return math.nan
        return float(recognizer.llr(recording.embedding, rest.prototype, recording.seconds, rest.speech))

    if speaker.recordings:
        return [llr(recording, speaker.recordings) for recording in new]
    agreeing = list(new)
    while len(agreeing) > 1:
        ratios = [llr(recording, agreeing) for recording in agreeing]
        lowest = min(range(len(ratios)), key=lambda i: (round(ratios[i], 6), -i))  # the last of equal ones
        if not ratios[lowest] < 0:  # NaN without a calibration
            break
        del agreeing[lowest]
    return [llr(recording, agreeing) for recording in new]

"""The result of reading a recording, and the errors of recordings that cannot be used."""

from typing import NamedTuple

import numpy as np

from configure import SAMPLE_RATE
from system.console import UserError

MAX_HOURS = 6  # of a recording
MAX_SAMPLES = MAX_HOURS * 3600 * SAMPLE_RATE
PLACEHOLDER_SIZE = 0x7F000000  # bytes; programs that do not know the size when they write the header write this or more


class RecordingError(UserError):
    """A recording that cannot be used; `reason` is the message without the name."""

    def __init__(self, name: str, reason: str = ""):
        # An error that another process raised is rebuilt from its complete message alone.
        super().__init__(f"{name}: {reason}" if reason else name)
        self.reason = reason


class NotAudioError(RecordingError):
    """A file in which FFmpeg finds no audio: another type of file, or a damaged beginning."""


class SilentError(RecordingError):
    """A recording in which every sample is zero."""


class Recording(NamedTuple):
    """The samples of a recording."""

    samples: np.ndarray  # (S,) int16, 16 kHz, S > 0, not all zero
    converted: bool  # whether the file was not 16 kHz 16-bit mono
    remarks: list[str]  # warnings about the samples, one line each

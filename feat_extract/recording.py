"""What reading a recording gives, and why it may give nothing."""

from typing import NamedTuple

import numpy as np

from configure import SAMPLE_RATE
from system.console import UserError

MAX_HOURS = 6  # of a recording
MAX_SAMPLES = MAX_HOURS * 3600 * SAMPLE_RATE
SUFFIXES = set(  # a file so called is a recording, and a damaged one if it cannot be read; others are tried too
    ".wav .flac .mp3 .m4a .aac .ogg .oga .opus .aiff .aif .aifc .au .snd .caf .w64 .rf64 .webm .mka .mkv .mp4 .mov "
    ".3gp .wma .amr .awb .sph .nist .ac3 .ape .wv .mp2 .voc .gsm".split()
)
PLACEHOLDER_SIZE = 0x7F000000  # bytes; a header that says this or more was written by a program that could not know


class RecordingError(UserError):
    """A recording that cannot be used; `reason` says why, without its name."""

    def __init__(self, name: str, reason: str = ""):
        # Without a reason: made anew of its whole message, as errors that cross from one process to another are.
        super().__init__(f"{name}: {reason}" if reason else name)
        self.reason = reason


class NotAudioError(RecordingError):
    """A file in which FFmpeg finds no audio: another kind of file, or one damaged from its beginning."""


class SilentError(RecordingError):
    """A recording whose every sample is zero."""


class Recording(NamedTuple):
    """A recording's samples."""

    samples: np.ndarray  # (S,) int16, 16 kHz, S > 0, not all zero
    converted: bool  # the file was not 16 kHz 16-bit mono
    remarks: list[str]  # what is doubtful about them, a line each

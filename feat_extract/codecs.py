"""Encode and decode speech with telephone and other lossy codecs, using FFmpeg's libraries.

The delays of the codecs are removed: each sample stays at its position.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import av
import numpy as np

from configure import SAMPLE_RATE
from system.console import UserError

FULL_SCALE = 2**15 - 1
TELEPHONE_BAND = 300, 3400  # Hz
N_TAPS = 257  # length of the band-pass filter, whose transition bands are 200 Hz wide
PADDING = 400  # zeros after the speech, because a resampler keeps back its last samples


class Codec(NamedTuple):
    """An encoder, its decoder, and their settings."""

    encoder: str  # name in FFmpeg
    decoder: str
    rate: int  # sampling rate in Hz
    bit_rates: tuple[int, int] | None = None  # minimum and maximum in bit/s; None: constant
    options: dict[str, str] = {}  # of the encoder
    telephone: bool = False  # whether the speech is first limited to the telephone band


CODECS = {
    "telephone": Codec("pcm_s16le", "pcm_s16le", 8000, telephone=True),
    "mu-law": Codec("pcm_mulaw", "pcm_mulaw", 8000, telephone=True),  # G.711
    # The fastest compression_level: the default takes three times as long for Opus and twice as long for MP3.
    "opus": Codec("libopus", "libopus", 16000, (8000, 24000), {"application": "voip", "compression_level": "0"}),
    "mp3": Codec("libmp3lame", "mp3float", 16000, (16000, 32000), {"compression_level": "9"}),
}


def transcode_at_random(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return samples (S,) transcoded by a random codec; see transcode."""
    return transcode(samples, str(rng.choice(list(CODECS))), rng)


def transcode(samples: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """Return samples (S,), encoded and decoded by one of the CODECS, as integers (S,) of type float32.

    The samples are floats at 16 kHz on the int16 scale; samples beyond the int16 scale are first scaled down. The bit
    rate is random. UserError if FFmpeg's libraries were built without the codec.
    """
    import scipy.signal

    codec, n = CODECS[name], len(samples)
    if missing := {codec.encoder, codec.decoder} - av.codecs_available:
        raise UserError(f"FFmpeg's {min(missing)} is missing in this build of PyAV; install av from PyPI")
    if codec.telephone:
        samples = scipy.signal.oaconvolve(np.pad(samples, N_TAPS // 2), _telephone_filter(), "valid")
    samples = samples * min(1, FULL_SCALE / max(1, float(np.abs(samples).max())))
    padded = np.pad(np.rint(samples).astype(np.int16), (0, PADDING))
    frame = av.AudioFrame.from_ndarray(padded[None], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    encoder: Any = av.CodecContext.create(codec.encoder, "w")
    encoder.sample_rate, encoder.layout, encoder.options = codec.rate, "mono", codec.options
    encoder.format = encoder.codec.audio_formats[0]
    if codec.bit_rates:
        encoder.bit_rate = int(rng.integers(*codec.bit_rates, endpoint=True))
    packets = list(_encoded(encoder, _resampled([frame], encoder.format.name, codec.rate)))
    decoder: Any = av.CodecContext.create(codec.decoder, "r")
    decoder.sample_rate, decoder.layout, decoder.extradata = codec.rate, "mono", encoder.extradata
    decoded = (frame for packet in [*packets, None] for frame in decoder.decode(packet))
    coded = np.concatenate([frame.to_ndarray()[0] for frame in _resampled(decoded, "s16", SAMPLE_RATE)])
    return coded[:n].astype(np.float32)


@cache
def _telephone_filter() -> np.ndarray:
    """Return the symmetric impulse response (N_TAPS,) of the telephone band-pass."""
    import scipy.signal

    return scipy.signal.firwin(N_TAPS, TELEPHONE_BAND, pass_zero=False, fs=SAMPLE_RATE).astype(np.float32)


def _encoded(encoder: Any, frames: Iterable[av.AudioFrame]) -> Iterator[av.Packet]:
    for frame in frames:
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _resampled(frames: Iterable[av.AudioFrame], sample_format: str, rate: int) -> Iterator[av.AudioFrame]:
    resampler = av.AudioResampler(sample_format, "mono", rate)
    for frame in frames:
        yield from resampler.resample(frame)
    yield from resampler.resample(None)

"""Decoding a recording of any format, rate and number of channels with FFmpeg's libraries, block by block."""

from array import array
from collections.abc import Iterator
from itertools import groupby
from typing import IO

import av
import numpy as np

from configure import SAMPLE_RATE
from feat_extract.recording import MAX_SAMPLES, PLACEHOLDER_SIZE, NotAudioError, Recording, RecordingError

# A playlist makes FFmpeg open the files and addresses that it names: no protocol is allowed but the open file itself.
CLOSED = {"protocol_whitelist": "none"}
RATES = range(4_000, 768_001)  # Hz
MAX_PEAK = 2**16  # of float samples; 1 is full scale, and some programs write them on the int16 scale
# FFmpeg's names of containers whose header states how long they are; for others it guesses, or looks at their end.
STATING = {"aiff", "au", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "nistsphere", "wav"}
CANCELLED = 0.1  # of the energy that the sum of unrelated channels has
ACTIVE = 1e-3  # of the louder channel's energy: one below carries nothing
ALIKE = 0.5  # correlation of two channels' loudness over time; of one voice in two microphones it is near 1
MIN_BLOCKS = 10  # fewer say nothing about that


def decode(file: IO[bytes], name: str, channel: int | None) -> tuple[Recording, float]:
    """Return a file's first audio stream, and how many seconds of it are missing or damaged.

    The samples of one or two channels are those of `ffmpeg -i FILE -ac 1 -ar 16000`; more channels are averaged.
    Of channels that cancel each other the loudest is taken, and float samples beyond full scale are scaled down.
    RecordingError naming the file if that cannot be, NotAudioError if it holds no audio.
    """
    decoding, gain = _Decoding(file, name, channel), 1.0
    remarks = [decoding.remark] if decoding.remark else []
    if decoding.peak > 1:
        gain = 1 / decoding.peak
        remarks.append(f"its samples reach {decoding.peak:.3g} times full scale and were scaled down")
    if channel is None and decoding.channels.cancel():
        channel = decoding.channels.loudest
        remarks.append(f"its channels cancel each other; channel {channel}, the loudest, was taken")
    elif channel is None and decoding.channels.differ():
        remarks.append("its two channels carry different sound and were averaged; --channel 1 or 2 takes one")
    if (channel, gain) != (decoding.channel, decoding.gain):
        file.seek(0)
        decoding = _Decoding(file, name, channel, gain)
    return Recording(decoding.samples, decoding.converted, remarks), decoding.missing


class Channels:
    """Energies and products of channels, block by block: they tell one sound, one upside down, and different ones."""

    def __init__(self) -> None:
        self._products = np.zeros((0, 0))  # (C, C), summed over all blocks
        self._energies = array("d")  # C of each block

    def add(self, planes: np.ndarray) -> None:
        """Take a block (C, S) into account, without its mean: a constant is no sound.

        If C changes within a file, as it can where one was joined to another, those of the last C count.
        """
        if len(planes) != len(self._products):
            self._products, self._energies = np.zeros((len(planes), len(planes))), array("d")
        centred = planes - planes.mean(axis=1, keepdims=True)
        products = centred @ centred.T
        self._products = self._products + products
        self._energies.extend(np.diag(products))

    @property
    def loudest(self) -> int:
        """The channel with the most energy, counted from 1; the first of those within 1 dB of it."""
        energies = np.diag(self._products)
        return 1 + int(np.argmax(energies > energies.max() * 10 ** (-1 / 10)))

    def cancel(self) -> bool:
        """Tell whether the sum of the channels is far weaker than that of unrelated ones would be."""
        return bool(self._products.sum() < CANCELLED * np.trace(self._products))

    def differ(self) -> bool:
        """Tell whether there are two channels, with sound in both, that grow loud at different times."""
        energies = np.diag(self._products)
        if len(energies) != 2 or len(self._energies) < 2 * MIN_BLOCKS or energies.min() <= ACTIVE * energies.max():
            return False
        blocks = np.array(self._energies).reshape(-1, 2)
        loudest = blocks.max(axis=1)
        loudness = np.sqrt(blocks[loudest > ACTIVE * loudest.max()].T)  # both are silent together, so that says nothing
        return bool(loudness.std(axis=1).all() and np.corrcoef(loudness)[0, 1] < ALIKE)


class _Decoding:
    """One pass over a file.

    Attributes:
        samples, converted: as in Recording.
        channel: the one that was taken, counted from 1; None if they were averaged.
        gain: that the samples were multiplied by.
        missing: seconds that its header states but it lacks, or that could not be decoded.
        peak: greatest absolute value of uncompressed float samples, of which 1 is full scale; 0 for other types.
        channels: how they relate.
        remark: what kept it from decoding the rest, if anything did.
    """

    def __init__(self, file: IO[bytes], name: str, channel: int | None, gain: float = 1.0) -> None:
        self.channel, self.gain, self.converted, self.peak, self.channels = channel, gain, False, 0.0, Channels()
        self.remark, self._name, self._n_good, self._n_bad = "", name, 0, 0
        try:
            with av.open(file, "r", options=CLOSED, metadata_errors="ignore") as container:
                if not container.streams.audio or container.streams.audio[0].codec_context is None:
                    raise NotAudioError(name, "no readable audio (no stream of it in a codec that FFmpeg knows)")
                self._is_float = container.streams.audio[0].codec_context.name.startswith("pcm_f")
                self.samples, seconds = self._decode(container)
                self.missing = max(_stated_seconds(container) - seconds, seconds * self._n_bad / max(1, self._n_good))
        except av.FFmpegError as error:
            raise NotAudioError(name, f"no readable audio ({error.strerror})") from None

    def _decode(self, container: av.container.InputContainer) -> tuple[np.ndarray, float]:
        """Return the samples and how many seconds they were before they were resampled."""
        seconds, content = 0.0, bytearray()
        for (kind, _, n_channels, rate), frames in groupby(self._frames(container), _format):
            self._check_format(n_channels, rate)
            self.converted |= (kind, n_channels, rate) not in (("s16", 1, SAMPLE_RATE), ("s16p", 1, SAMPLE_RATE))
            as_it_is = n_channels == 1 and not self._is_float
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            for frame in frames:
                seconds += frame.samples / rate
                content += _samples(resampler.resample(frame if as_it_is else self._mixed(frame)))
                if len(content) > 2 * MAX_SAMPLES:  # too long; the caller says so
                    return np.frombuffer(content, np.int16), seconds
            content += _samples(resampler.resample(None))
        return np.frombuffer(content, np.int16), seconds

    def _check_format(self, n_channels: int, rate: int) -> None:
        if rate not in RATES:
            raise RecordingError(self._name, f"samples at {rate:,} Hz, by its header, are no speech")
        if self.channel and self.channel > n_channels:
            raise RecordingError(self._name, f"has no channel {self.channel}, only {n_channels}")

    def _frames(self, container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
        """Yield the decoded frames of the first audio stream; packets that cannot be decoded are counted."""
        try:
            for packet in container.demux(audio=0):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._n_bad += 1
                else:
                    self._n_good += 1
                    yield from frames
        except av.FFmpegError as error:
            if not self._n_good:
                raise
            self.remark = f"only its first part could be decoded ({error.strerror})"

    def _mixed(self, frame: av.AudioFrame) -> av.AudioFrame:
        """Return a frame with the channel and gain that are wanted, as it is where the resampler averages two."""
        n_channels = frame.layout.nb_channels
        planes = _planes(frame)
        if self._is_float:
            self._measure_peak(planes)
        if n_channels > 1:
            self.channels.add(planes)
        if n_channels <= 2 and self.channel is None and self.gain == 1:
            return frame
        mono = planes[self.channel - 1] if self.channel else planes.mean(axis=0)
        mixed = av.AudioFrame.from_ndarray((mono * self.gain)[None].astype(np.float32), format="flt", layout="mono")
        mixed.sample_rate = frame.sample_rate
        return mixed

    def _measure_peak(self, planes: np.ndarray) -> None:
        peak = float(np.abs(planes).max())
        if not np.isfinite(peak):
            raise RecordingError(self._name, "holds NaN or infinite samples")
        if peak > MAX_PEAK:
            raise RecordingError(self._name, f"its samples are far beyond full scale ({peak:.3g}, where 1 is full)")
        self.peak = max(self.peak, peak)


def _format(frame: av.AudioFrame) -> tuple[str, str, int, int]:
    """Return what may change within a file: sample format, layout, number of channels, rate."""
    return frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate


def _samples(frames: list[av.AudioFrame]) -> bytes:
    """Return the samples of 16-bit mono frames."""
    return b"".join(memoryview(frame.planes[0])[: 2 * frame.samples] for frame in frames)


def _planes(frame: av.AudioFrame) -> np.ndarray:
    """Return a frame's channels (C, S) as floats within -1..1."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype.kind == "f":
        return array
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    return array.astype(np.float32) / 2.0 ** (8 * array.itemsize - 1)


def _stated_seconds(container: av.container.InputContainer) -> float:
    """Return how long the first audio stream is by the container's header; 0 if that states nothing."""
    stream = container.streams.audio[0]
    if container.format.name not in STATING:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        seconds = container.duration / av.time_base
    else:
        return 0.0
    sample_bytes = stream.format.bytes if stream.format else 0  # unknown where nothing could be decoded
    n_bytes = seconds * (stream.rate or 0) * stream.channels * sample_bytes
    return seconds if n_bytes < PLACEHOLDER_SIZE else 0.0

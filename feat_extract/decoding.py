"""Decode recordings of any format, rate and number of channels with FFmpeg's libraries, block by block."""

from array import array
from collections.abc import Iterator
from itertools import groupby
from typing import IO

import av
import numpy as np

from configure import SAMPLE_RATE
from feat_extract.recording import MAX_SAMPLES, PLACEHOLDER_SIZE, NotAudioError, Recording, RecordingError

# FFmpeg would open the files and addresses that a playlist names. Without protocols it can read the open file only.
NO_PROTOCOLS = {"protocol_whitelist": "none"}
RATES = range(4_000, 768_001)  # Hz
MAX_PEAK = 2**16  # of float samples; full scale is 1, but some programs write floats on the int16 scale
# FFmpeg's names of containers whose header states the duration. For others FFmpeg estimates it, or reads the end.
WITH_DURATION = {"aiff", "au", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "nistsphere", "wav"}
CANCELLED = 0.1  # channels cancel if the energy of their sum is below this share of the sum of their energies
ACTIVE = 1e-3  # a channel is empty if its energy is below this share of the louder channel's
ALIKE = 0.5  # minimum correlation of the loudness of two channels over time; for one voice, it is near 1
MIN_BLOCKS = 10  # for an estimate of this correlation


def decode(file: IO[bytes], name: str, channel: int | None) -> tuple[Recording, float]:
    """Return the first audio stream of a file, and the seconds of it that are missing or damaged.

    For one or two channels, the samples are equal to the output of `ffmpeg -i FILE -ac 1 -ar 16000`. More channels are
    averaged. If the channels cancel each other, the loudest is taken. Float samples beyond full scale are scaled down.
    NotAudioError if the file contains no audio, RecordingError if its audio cannot be used.
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
    """Energies and products of channels: they detect polarity-inverted and unrelated channels."""

    def __init__(self) -> None:
        self._products = np.zeros((0, 0))  # (C, C), sum over all blocks
        self._energies = array("d")  # C numbers per block

    def add(self, planes: np.ndarray) -> None:
        """Add a block (C, S); its mean is subtracted first.

        If C changes within the file (joined files), the earlier blocks are discarded.
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
        """Return whether the sum of the channels is much weaker than the sum of unrelated channels would be."""
        return bool(self._products.sum() < CANCELLED * np.trace(self._products))

    def differ(self) -> bool:
        """Return whether there are two channels, neither of them empty, whose loudness is not correlated."""
        energies = np.diag(self._products)
        if len(energies) != 2 or len(self._energies) < 2 * MIN_BLOCKS or energies.min() <= ACTIVE * energies.max():
            return False
        blocks = np.array(self._energies).reshape(-1, 2)
        loudest = blocks.max(axis=1)
        loudness = np.sqrt(blocks[loudest > ACTIVE * loudest.max()].T)  # without the blocks in which both are silent
        return bool(loudness.std(axis=1).all() and np.corrcoef(loudness)[0, 1] < ALIKE)


class _Decoding:
    """One pass over a file.

    Attributes:
        samples, converted: see Recording.
        channel: the decoded channel, counted from 1; None if the channels were averaged.
        gain: factor of the samples.
        missing: seconds that the header states and the file lacks, or that could not be decoded.
        peak: maximum absolute value of uncompressed float samples (full scale is 1); 0 for other types.
        channels: statistics of the channels.
        remark: why the rest of the file could not be decoded; empty if it was decoded.
    """

    def __init__(self, file: IO[bytes], name: str, channel: int | None, gain: float = 1.0) -> None:
        self.channel, self.gain, self.converted, self.peak, self.channels = channel, gain, False, 0.0, Channels()
        self.remark, self._name, self._n_good, self._n_bad = "", name, 0, 0
        try:
            with av.open(file, "r", options=NO_PROTOCOLS, metadata_errors="ignore") as container:
                if not container.streams.audio or container.streams.audio[0].codec_context is None:
                    raise NotAudioError(name, "no readable audio (no stream in a codec that FFmpeg supports)")
                self._is_float = container.streams.audio[0].codec_context.name.startswith("pcm_f")
                self.samples, seconds = self._decode(container)
                self.missing = max(_stated_seconds(container) - seconds, seconds * self._n_bad / max(1, self._n_good))
        except av.FFmpegError as error:
            raise NotAudioError(name, f"no readable audio ({error.strerror})") from None

    def _decode(self, container: av.container.InputContainer) -> tuple[np.ndarray, float]:
        """Return the samples, and the duration of the input in seconds."""
        seconds, content = 0.0, bytearray()
        for (kind, _, n_channels, rate), frames in groupby(self._frames(container), _format):
            self._check_format(n_channels, rate)
            self.converted |= (kind, n_channels, rate) not in (("s16", 1, SAMPLE_RATE), ("s16p", 1, SAMPLE_RATE))
            unchanged = n_channels == 1 and not self._is_float
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            for frame in frames:
                seconds += frame.samples / rate
                content += _samples(resampler.resample(frame if unchanged else self._mixed(frame)))
                if len(content) > 2 * MAX_SAMPLES:  # too long: read_recording raises an error
                    return np.frombuffer(content, np.int16), seconds
            content += _samples(resampler.resample(None))
        return np.frombuffer(content, np.int16), seconds

    def _check_format(self, n_channels: int, rate: int) -> None:
        if rate not in RATES:
            raise RecordingError(self._name, f"sampling rate {rate:,} Hz is not between 4 and 768 kHz")
        if self.channel and self.channel > n_channels:
            raise RecordingError(self._name, f"has no channel {self.channel}, only {n_channels}")

    def _frames(self, container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
        """Yield the decoded frames of the first audio stream, and count the packets that cannot be decoded."""
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
        """Return a mono frame times the gain; the unchanged frame if the resampler has only to average two channels."""
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
            raise RecordingError(self._name, "contains NaN or infinite samples")
        if peak > MAX_PEAK:
            raise RecordingError(self._name, f"its samples are far beyond full scale ({peak:.3g}, where 1 is full)")
        self.peak = max(self.peak, peak)


def _format(frame: av.AudioFrame) -> tuple[str, str, int, int]:
    """Return the properties that may change within a file: sample format, layout, number of channels, rate."""
    return frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate


def _samples(frames: list[av.AudioFrame]) -> bytes:
    """Return the bytes of 16-bit mono frames."""
    return b"".join(memoryview(frame.planes[0])[: 2 * frame.samples] for frame in frames)


def _planes(frame: av.AudioFrame) -> np.ndarray:
    """Return the channels (C, S) of a frame as floats within -1..1."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype.kind == "f":
        return array
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    return array.astype(np.float32) / 2.0 ** (8 * array.itemsize - 1)


def _stated_seconds(container: av.container.InputContainer) -> float:
    """Return the duration of the first audio stream that the header states; 0 if it states none."""
    stream = container.streams.audio[0]
    if container.format.name not in WITH_DURATION:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        seconds = container.duration / av.time_base
    else:
        return 0.0
    sample_bytes = stream.format.bytes if stream.format else 0  # unknown if nothing could be decoded
    n_bytes = seconds * (stream.rate or 0) * stream.channels * sample_bytes
    return seconds if n_bytes < PLACEHOLDER_SIZE else 0.0

"""A table of input files and how they are read, for the tests and for docs/formats.md."""

import io
import struct
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np
import scipy.signal
import soundfile
from conftest import voice

RATE = 16000
CLEAN = voice(1, 2.4, 0)
OTHER = voice(2, 2.4, 1)
FLOATS = CLEAN / 32768
NOISE = np.random.default_rng(0).standard_normal(len(CLEAN))
PIPED = (0x7FFFF000, 0x7FFFFF00, 0xFFFFFFFF, 0x7F000000)  # sizes that programs write into a pipe


def riff(
    pcm: bytes, size: int | None = None, riff_size: int | None = None, channels: int = 1, rate: int = RATE
) -> bytes:
    """Return a 16-bit wav with the given sizes in its header, right or wrong."""
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    body = b"WAVE" + form + b"data" + struct.pack("<I", len(pcm) if size is None else size) + pcm
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def sound(samples: np.ndarray, rate: int = RATE, *, format: str = "WAV", subtype: str | None = None) -> bytes:
    """Return samples as a file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def encoded(container: str, codec: str, rate: int = RATE, layout: str = "mono", **options: int) -> bytes:
    """Return CLEAN as a file that FFmpeg writes."""
    file, queue = io.BytesIO(), av.AudioFifo()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout, **options)
        frame = av.AudioFrame.from_ndarray(CLEAN[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(stream.format.name, layout, rate)
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            queue.write(resampled)
        while piece := queue.read(stream.frame_size or 1024, partial=True):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


def video() -> bytes:
    """Return a video of ten black pictures with CLEAN as its sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        pictures, sound_track = out.add_stream("mpeg4", rate=25), out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        pictures.width = pictures.height = 64
        for index in range(10):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            picture.pts = index
            out.mux(pictures.encode(picture))
        frame = av.AudioFrame.from_ndarray(CLEAN[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        out.mux([*sound_track.encode(frame), *pictures.encode(None), *sound_track.encode(None)])
    return file.getvalue()


class Case(NamedTuple):
    """A kind of file and how it is read."""

    given: str
    outcome: str
    variants: Callable[[], list[bytes]]
    like: Callable[[np.ndarray, np.ndarray], bool] = np.array_equal  # compares the samples with `expected`
    expected: np.ndarray = CLEAN
    remark: str = ""  # a regular expression for the remark; "" if there is none
    refused: str = ""  # a regular expression for the error
    channel: int | None = None


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether samples are the expected ones, except for a codec's or resampler's loss and padding."""
    assert len(expected) - 600 <= len(found) <= len(expected) + 2000
    likeness = scipy.signal.correlate(found.astype(float), expected.astype(float)).max()  # codecs delay
    return likeness > 0.8 * np.linalg.norm(found.astype(float)) * np.linalg.norm(expected.astype(float))


def begins(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether samples are the first of the expected ones, bit by bit."""
    return 0 < len(found) < len(expected) and np.array_equal(found, expected[: len(found)])


def equal_or_inverted(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether samples are the expected ones or their negatives, except for a faint noise."""
    return bool(np.abs(np.corrcoef(found, expected)[0, 1]) > 0.999)


def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
    return sound(np.stack([left, right], axis=1))


def converted(rate: int, subtype: str | None = None) -> bytes:
    """Return CLEAN at another rate, interpolated."""
    time = np.arange(int(len(CLEAN) * rate / RATE)) / rate
    return sound(np.interp(time, np.arange(len(CLEAN)) / RATE, FLOATS), rate, subtype=subtype)


def cut(content: bytes, share: float) -> bytes:
    """Return the beginning of a file."""
    return content[: int(len(content) * share)]


def with_cover(flac: bytes) -> bytes:
    """Return a FLAC file with a picture in it, a second stream to FFmpeg; its first 42 bytes are its sound's header."""
    png = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0) + bytes(4)
    picture = struct.pack(">II9sIIIIII", 3, 9, b"image/png", 0, 1, 1, 8, 0, len(png)) + png
    return flac[:42] + b"\x06" + len(picture).to_bytes(3, "big") + picture + flac[42:]


PCM = CLEAN.tobytes()
TAGS = b"LIST" + struct.pack("<I", 24) + b"INFOISFT" + struct.pack("<I", 11) + b"some editor\0"  # a chunk of metadata
OTHER_BYTES = np.random.default_rng(1).bytes(50_000)
CANCELLED = r"channels cancel each other; channel [12], the loudest, was taken"
WITH_LENGTH = "wav, aiff, au, flac, rf64, sph (NIST), mkv"  # a truncated file is detected by its header
CASES = [
    Case("wav, flac, aiff, au, caf, w64, rf64, sph (NIST), voc, mov, mkv: 16 kHz mono 16-bit", "read without change",
         lambda: [*(sound(CLEAN, format=kind) for kind in
                    ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "NIST", "VOC")),
                  encoded("mov", "pcm_s16le"), encoded("matroska", "pcm_s16le"), encoded("wav", "pcm_s16le")]),
    Case("mp3, ogg, opus, m4a, aac, mp4, webm, wma, amr, 3gp, ac3", "decoded, resampled to 16 kHz",
         lambda: [sound(FLOATS, format="MP3"), sound(FLOATS, format="OGG"), encoded("ogg", "libopus", 48000),
                  encoded("ipod", "aac"), encoded("adts", "aac"), encoded("mp4", "aac"),
                  encoded("webm", "libopus", 48000), encoded("asf", "wmav2", 44100, bit_rate=64000),
                  encoded("ac3", "ac3", 48000),
                  encoded("amr", "libopencore_amrnb", 8000), encoded("3gp", "libopencore_amrnb", 8000)], near),
    Case("8, 22.05, 44.1, 48, 96 kHz; 8, 24, 32 bits, floats, A-law, mu-law, ADPCM", "converted to 16 kHz 16-bit",
         lambda: [*(converted(rate) for rate in (8000, 22050, 44100, 48000, 96000)),
                  *(converted(RATE, subtype=kind) for kind in
                    ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "MS_ADPCM"))], near),
    Case("a video with sound", "the first sound track is read", lambda: [video()], near),
    Case("16 kHz mono wav with an unfinished header: data size 0, or the size that sox and others write into a pipe",
         "read to the end of the file",
         lambda: [riff(PCM, 0), riff(PCM, 0, 0), riff(PCM, 0, 36), *(riff(PCM, size, size + 36 & 0xFFFFFFFF)
                  for size in PIPED)]),
    Case("wav of other rates and channels with an unfinished header", "read to the end of the file",
         lambda: [riff(np.repeat(CLEAN, 2).tobytes(), size, 0, channels=2) for size in (0, *PIPED)]),
    Case(f"{WITH_LENGTH}: shorter than the header states, by less than 25 ms", "read without a remark",
         lambda: [riff(PCM, len(PCM) + 16), riff(PCM, len(PCM) + 798), riff(PCM[:-1], len(PCM))],
         lambda found, expected: len(found) >= len(expected) - 1 and np.array_equal(found, expected[: len(found)])),
    Case(f"{WITH_LENGTH}: shorter than the header states, by more than 25 ms (an incomplete download)",
         "read, with a remark that states the missing seconds",
         lambda: [*(cut(sound(CLEAN, format=kind), 0.9)
                    for kind in ("WAV", "WAVEX", "AIFF", "AU", "FLAC", "RF64", "NIST")),
                  cut(encoded("matroska", "pcm_s16le"), 0.9), cut(with_cover(sound(CLEAN, format="FLAC")), 0.9)],
         begins, remark=r"truncated: 0\.[2-5]\d of its 2\.[34]\d s are missing"),
    Case(f"{WITH_LENGTH}: shorter than the header states, by more than half", "error", lambda: [
         *(cut(sound(CLEAN, format=kind), 0.45) for kind in ("WAV", "WAVEX", "AIFF", "AU", "FLAC", "RF64", "NIST")),
         cut(sound(CLEAN, subtype="MS_ADPCM"), 0.45), cut(encoded("matroska", "pcm_s16le"), 0.45)],
         refused=r"truncated: 1\.[2-9]\d of its 2\.[34]\d s are missing"),
    Case("mp3, ogg, caf, w64, voc, amr, ac3: truncated", "read to the end of the file, without a remark", lambda: [
         *(cut(sound(CLEAN, format=kind), 0.9) for kind in ("MP3", "OGG", "CAF", "W64", "VOC")),
         cut(encoded("amr", "libopencore_amrnb", 8000), 0.9), cut(encoded("ac3", "ac3", 48000), 0.9)],
         lambda found, expected: 0 < len(found) < len(expected)),
    Case("m4a, mp4, mov, 3gp: truncated, if their index is at the end of the file", "error: not audio", lambda: [
         cut(encoded(kind, codec, rate), 0.9) for kind, codec, rate in
         (("ipod", "aac", RATE), ("mp4", "aac", RATE), ("mov", "pcm_s16le", RATE), ("3gp", "libopencore_amrnb", 8000))],
         refused="no readable audio"),
    Case("two channels with the same voice", "averaged", lambda: [stereo(CLEAN, CLEAN)]),
    Case("two channels out of phase, exactly or nearly, or with an offset",
         "the louder channel, with a remark",
         lambda: [stereo(FLOATS, -FLOATS), stereo(FLOATS, -FLOATS + 1e-3 * NOISE), stereo(FLOATS, -0.8 * FLOATS),
                  stereo(FLOATS + 0.05, -FLOATS + 0.05)], equal_or_inverted, remark=CANCELLED),
    Case("two channels with different voices, at the same time or alternating", "averaged, with a remark",
         lambda: [stereo(CLEAN, OTHER), stereo(np.r_[CLEAN, 0 * CLEAN], np.r_[0 * OTHER, OTHER])],
         lambda found, _: bool(found.any()), remark="two channels carry different sound.*--channel 1 or 2"),
    Case("`--channel N` (counted from 1)", "this channel, without change", lambda: [
         stereo(OTHER, CLEAN), sound(np.stack([OTHER, CLEAN, OTHER], axis=1))], channel=2),
    Case("`--channel 3` of a recording with two channels", "error",
         lambda: [stereo(OTHER, CLEAN)], channel=3, refused="no channel 3, only 2"),
    Case("more than two channels", "averaged", lambda: [
         sound(np.stack([CLEAN] * n, axis=1)) for n in (3, 6, 9, 16)]),
    Case("float samples beyond full scale (1)", "scaled down, with a remark", lambda: [
         sound(FLOATS * gain / np.abs(FLOATS).max(), subtype="FLOAT") for gain in (1.5, 20_000)],
         lambda found, expected: bool(np.corrcoef(found, expected)[0, 1] > 0.9999), remark="times full scale"),
    Case("float samples that are NaN, infinite or above 65,536 times full scale", "error", lambda: [
         sound(FLOATS * factor, subtype="FLOAT") for factor in (np.nan, np.inf, 1e30)], refused="NaN|full scale"),
    Case("more than 6 hours", "error", lambda: [riff(bytes(2 * (6 * 3600 * 4000 + 4000)), rate=4000)],
         refused="longer than 6 hours"),
    Case("a sampling rate below 4 kHz or above 768 kHz", "error", lambda: [sound(FLOATS, rate)
         for rate in (2, 1_000_000)], refused="not between 4 and 768 kHz"),
    Case("no samples, also with metadata after a data size of 0", "error", lambda: [
         sound(CLEAN[:0]), sound(CLEAN[:0], 44100), *(riff(b"", 0, channels=n) + TAGS for n in (1, 2)),
         riff(b"", 0) + TAGS[:-1]], refused="no samples"),
    Case("only zeros", "error: silent", lambda: [sound(0 * CLEAN)], refused="silent"),
    Case("text, pictures, archives, files of other programs", "error: not audio", lambda: [
         b"", b"notes\n" * 99, b"\x89PNG\r\n\x1a\n" + OTHER_BYTES, b"PK\3\4" + OTHER_BYTES, b"%PDF-1.7" + OTHER_BYTES],
         refused="no readable audio"),
]  # fmt: skip


def section() -> str:
    """Return the part of docs/formats.md about recordings."""
    rows = "".join(f"| {case.given} | {case.outcome} |\n" for case in CASES)
    return f"""## Recordings

`recognize.py`, `dataprep.py` and the feature extraction read recordings in the same way, as 16 kHz mono 16-bit samples.
A remark is a warning or, in an import, an entry in `import_report.csv`.

| file | how it is read |
| --- | --- |
{rows}"""

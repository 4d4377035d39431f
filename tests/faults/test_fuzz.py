"""Readers of files of other people: damaged and made-up files give a result or a UserError, nothing else.

The cases are the same in every run. METASR_SOAK=1 tests more than 100,000.
"""

import io
import pickle
import random
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
from conftest import PROJECT
from harness import soaked, trial_list
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.features import locate, read_feature, read_frames
from dataset.trials import read_trials
from feat_extract.audio import read_recording
from system.console import UserError

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # users would see NumPy's warnings
FAMILY = 16
fuzzed = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def cases(usual: int, in_soak: int) -> settings:
    """Return the settings for a number of cases; one example of hypothesis contains FAMILY cases."""
    return settings(fuzzed, max_examples=soaked(usual, in_soak) // FAMILY)


def damage(blob: bytes, rng: random.Random) -> bytes:
    """Return a file with bytes changed, inserted, removed, repeated or truncated at one to four positions."""
    for _ in range(rng.randint(1, 4)):
        # Half of the positions are in the first 400 bytes, which contain the structure.
        at = rng.randrange(1 + rng.choice([len(blob), min(400, len(blob))]))
        stop, new = at + rng.randrange(40), rng.randbytes(rng.randrange(9))
        blob = rng.choice(
            [
                blob[:at] + new + blob[at + len(new) :],
                blob[:at] + bytes([blob[at] ^ 1 << rng.randrange(8)]) + blob[at + 1 :] if at < len(blob) else blob,
                blob[:at] + new + blob[at:],
                blob[:at] + blob[stop:],
                blob[:stop] + blob[at:],
                blob[:at],
            ]
        )
    return blob


def families(valid: list[bytes], made_up: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Return a strategy of lists of files: a made-up one, and FAMILY - 1 damaged valid ones."""

    def family(seed: int, first: bytes) -> list[bytes]:
        rng = random.Random(seed)
        return [first, *(damage(rng.choice(valid), rng) for _ in range(FAMILY - 1))]

    return st.builds(family, st.integers(0, 2**32), made_up)


def only_user_errors(read: Callable[[], object]) -> None:
    try:
        read()
    except UserError as error:
        assert str(error)


LAYOUTS: list[tuple[int, str, Literal["C", "F"]]] = [(3, "<f4", "C"), (2, ">f8", "F"), (1, "<f8", "C")]
FEATURES = [
    pickle.dumps({"feat": np.asarray(np.ones((n, 40)), dtype, order=order), "label": "id1"}, protocol)
    for protocol in range(6)
    for n, dtype, order in LAYOUTS
]
SIZE = st.integers(0, 2**64 - 1) | st.integers(0, 70)
NAMES = [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cnumpy.core.multiarray\n_reconstruct\n"]
NAMES += [b"cnumpy._core.numeric\n_frombuffer\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\ndtype.__reduce__\n"]
OPERATION = st.one_of(
    st.sampled_from(NAMES),
    st.integers(0, 255).map(lambda code: bytes([code])),
    st.sampled_from([bytes([code]) for code in b"()}RbustN\x85\x86\x87\x88\x94"]),
    st.binary(max_size=20).map(lambda raw: b"C" + bytes([len(raw)]) + raw),
    st.sampled_from([b"feat", b"label", b"f4", b"f8", b"<", b"latin1", b"numpy", b"ndarray", b"\xc3\xa9"]).map(
        lambda name: b"\x8c" + bytes([len(name)]) + name
    ),
    st.sampled_from([b"K\x28", b"K\x01", b"J\xff\xff\xff\xff", b"I40\n", b"L" + b"9" * 5000 + b"L\n"]),
    st.builds(lambda size: b"\x8a" + bytes([size]) + b"\x7f" * size, st.integers(0, 255)),
    st.builds(lambda code, size: bytes([code]) + struct.pack("<Q", size), st.sampled_from(b"\x8e\x96\x8d\x95"), SIZE),
    st.builds(lambda code, size: bytes([code]) + struct.pack("<I", size % 2**32), st.sampled_from(b"BXjr\x8b"), SIZE),
    st.integers(0, 9).map(lambda at: b"h" + bytes([at])),
)
PROGRAMS = st.lists(OPERATION, max_size=40).map(lambda parts: b"\x80\x04" + b"".join(parts) + b".")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


@cases(1600, 64_000)
@given(families(FEATURES, PROGRAMS))
def test_features(path: Path, blobs: list[bytes]) -> None:
    def read_a_crop() -> None:
        where = locate(path)
        assert read_frames(path, where, 0, 1).shape == (1, 40)

    for blob in blobs:
        path.write_bytes(blob)
        only_user_errors(lambda: read_feature(path).shape[1] == 40 or pytest.fail())
        only_user_errors(read_a_crop)


LISTS = [trial_list(range(2), 2).encode(), b"\xef\xbb\xbf1 a b\n0 c d\n"]
LISTS += [b"1 a/b/c.wav\ta/b/d.wav\r\n\r\n0  a/b/c.wav e/f/g.wav"]
WORDS = ["0", "1", "a/b/c.wav", '"', "'", "#", "\x00", "\r", "NA", "nan", "\u00e9", "\u2028", "\ufeff", "1e9"]
LINES = st.lists(st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=6).map(" ".join), max_size=6).map(
    lambda lines: "\n".join(lines).encode(errors="surrogatepass")
)


@cases(480, 16_000)
@given(families(LISTS, LINES))
def test_trial_lists(path: Path, blobs: list[bytes]) -> None:
    def read() -> None:
        trials = read_trials(path)
        assert len(trials.label) == len(trials.enrol) == len(trials.test) > 1
        assert all(name and not set(name) & set(" \t\n") for name in (*trials.enrol, *trials.test))

    for blob in blobs:
        path.write_bytes(blob)
        only_user_errors(read)


def recordings() -> list[bytes]:
    noise, written = np.random.default_rng(0).normal(0, 0.1, 300), []
    for rate, subtype, kind in (
        (16000, "PCM_16", "WAV"), (8000, "PCM_U8", "WAV"), (44100, "PCM_24", "WAV"), (16000, "FLOAT", "WAV"),
        (16000, "PCM_16", "FLAC"), (16000, "ALAW", "WAV"), (16000, "IMA_ADPCM", "WAV"), (16000, "PCM_16", "AIFF"),
        (16000, "PCM_16", "RF64"), (22050, "PCM_16", "AU"),
    ):  # fmt: skip
        file = io.BytesIO()
        soundfile.write(file, noise, rate, subtype=subtype, format=kind)
        written.append(file.getvalue())
    return written


def headed(fields: tuple[int, ...], samples: bytes) -> bytes:
    """Return a wav with the given format chunk."""
    kind, channels, rate, byte_rate, block, bits, size = fields
    head = struct.pack("<HHIIHH", kind, channels, rate, byte_rate, block, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(samples))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + (b"data" + struct.pack("<I", size) + samples)
    )


HALF, WORD = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
FORMAT = st.tuples(
    st.sampled_from([1, 3, 6, 7, 0x11, 0x55, 0xFFFE]) | HALF,
    st.integers(0, 3) | HALF,
    st.sampled_from([1, 8000, 16000, 44100, 768000]) | WORD,
    WORD,
    st.sampled_from([1, 2, 4]) | HALF,
    st.sampled_from([8, 16, 24, 32, 64]) | HALF,
    st.integers(0, 200) | WORD,
)


@cases(800, 24_000)
@given(families(recordings(), st.builds(headed, FORMAT, st.binary(max_size=200))))
@pytest.mark.slow
def test_recordings(path: Path, blobs: list[bytes]) -> None:
    for blob in blobs:
        path.write_bytes(blob)
        only_user_errors(lambda: read_recording(path).samples.ndim == 1 or pytest.fail())


LATIN = b"X\x06\0\0\0latin1"
BOMBS = {
    "bytes that are not there": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "a key that takes years to hash": b"\x80\x04})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(45)) + b"Ns.",
    "a string turned into bytes 40 times": b"\x80\x02c_codecs\nencode\nq\0X" + struct.pack("<I", 10**7)
    + b"a" * 10**7 + b"q\1" + LATIN + b"q\2" + b"h\0h\1h\2\x86R" * 40 + b".",
    "fifty million operations": b"\x80\x04" + b"N" * 50_000_000 + b".",
    "a memo of two billion places": b"\x80\x04Nr" + struct.pack("<I", 2**31 - 1) + b".",
    "a frame of 2**62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs_need_little_memory_and_time(tmp_path: Path, name: str) -> None:
    (tmp_path / "bomb.pkl").write_bytes(BOMBS[name])
    code = """if True:
        import resource, sys, pathlib, dataset.features
        from system import console
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            dataset.features.read_feature(pathlib.Path(sys.argv[1]))
        except console.UserError as error:
            assert "MemoryError" not in str(error), error
        else:
            sys.exit("read")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 300_000, "kilobytes"
    """
    command = [sys.executable, "-c", code, str(tmp_path / "bomb.pkl")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_wav_with_a_false_length_needs_little_memory(tmp_path: Path) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((2, 2, 1, 0, "NONE", ""))  # at 1 Hz, resampling would multiply the size by 16,000
        out.writeframes(b"\1\0" * 100_000)
    (tmp_path / "slow.wav").write_bytes(file.getvalue())
    with pytest.raises(UserError, match="sampling rate 1 Hz"):
        read_recording(tmp_path / "slow.wav")

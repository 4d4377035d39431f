import importlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import GOLDEN

from dataset.features import locate, read_feature, read_frames, write_feature
from system.console import UserError


def array(n_frames: int, dtype: str = "<f8") -> np.ndarray:
    return np.random.default_rng(n_frames).normal(size=(n_frames, 40)).astype(dtype)


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def test_features_are_written_as_a_standard_pickle_of_float32(tmp_path: Path) -> None:
    write_feature(tmp_path / "a" / "x.pkl", array(300), "id00001")
    content = pickle.loads((tmp_path / "a" / "x.pkl").read_bytes())
    assert content["label"] == "id00001" and content["feat"].dtype == np.float32
    assert np.array_equal(content["feat"], array(300, "<f4"))
    assert os.listdir(tmp_path / "a") == ["x.pkl"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("n_frames", [1, 20, 150, 900])
def test_every_protocol_and_float_type_is_read(
    tmp_path: Path, protocol: int, dtype: str, order: Literal["C", "F"], n_frames: int
) -> None:
    feat = np.array(array(n_frames, dtype), order=order)
    path = dump(tmp_path / "x.pkl", {"feat": feat, "label": "id1"}, protocol)
    assert np.array_equal(read_feature(path), feat.astype(np.float32))
    where = locate(path)
    assert where.n_frames == n_frames
    start = n_frames // 3
    assert np.array_equal(read_frames(path, where, start, n_frames), feat[start:].astype(np.float32))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_the_official_code_are_read(tmp_path: Path, protocol: int) -> None:
    # golden/numpy_1_features.npz contains pickles of NumPy 1.26, which refer to numpy.core.multiarray.
    path = tmp_path / "x.pkl"
    path.write_bytes(np.load(GOLDEN / "numpy_1_features.npz")[f"protocol{protocol}"].tobytes())
    expected = (np.arange(120).reshape(3, 40) / 7 - 8).astype(np.float32)
    assert b"numpy.core." in path.read_bytes()
    assert np.array_equal(read_feature(path), expected)
    where = locate(path)
    assert where.n_frames == 3 and (where.offset > 0) == (protocol > 2)  # protocol 2 stores bytes as text
    assert np.array_equal(read_frames(path, where, 1, 3), expected[1:])


def test_a_crop_of_our_files_reads_only_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    write_feature(path, array(5000), "id1")
    where = locate(path)
    assert where.offset > 0
    with open(path, "r+b") as file:  # overwrite everything except frames 100..299
        file.write(b"\xff" * (where.offset + 100 * 160))
        file.seek(where.offset + 300 * 160)
        file.write(b"\xff" * (where.size - file.tell()))
    os.utime(path, ns=(where.changed, where.changed))
    assert np.array_equal(read_frames(path, where, 100, 300), array(5000, "<f4")[100:300])


class Exploit:
    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["alone", "feat", "label", "nested"])
@pytest.mark.parametrize("kind", ["os.system", "builtins.eval", "importlib.import_module"])
def test_a_pickle_that_refers_to_code_is_refused_and_runs_nothing(
    tmp_path: Path, protocol: int, where: str, kind: str
) -> None:
    trace = tmp_path / "trace"
    payload = {
        "os.system": Exploit(os.system, f"touch {trace}"),
        "builtins.eval": Exploit(eval, f"open({str(trace)!r}, 'w')"),
        "importlib.import_module": Exploit(importlib.import_module, "this"),
    }[kind]
    content = {
        "alone": payload,
        "feat": {"feat": payload, "label": "id1"},
        "label": {"feat": array(10), "label": payload},
        "nested": {"feat": array(10), "label": "id1", "more": [{"deep": (payload,)}]},
    }[where]
    path = dump(tmp_path / "evil.pkl", content, protocol)
    for read in (read_feature, locate):
        with pytest.raises(UserError, match="evil.pkl.*which features do not need"):
            read(path)
    assert not trace.exists()


@pytest.mark.parametrize("program", [b"N" * 300, b"(" + b"\x8c\1a\x94" + b"h\0" * 20 + b"t", b"Nr\0\1\0\0"])
def test_more_operations_or_memory_than_features_need_are_refused(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + program + b".")
    with pytest.raises(UserError, match="x.pkl.*operations or memory"):
        read_feature(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"feat": array(10)}, "does not contain"),
        ({"feat": array(10), "label": 3}, "does not contain"),
        ({"feat": [1.0], "label": "id1"}, "operation"),
        ([array(10)], "operation"),
        (array(10), "does not contain"),
        ({"feat": array(10)[:, :39], "label": "id1"}, r"shape \(10, 39\)"),
        ({"feat": array(10)[:0], "label": "id1"}, r"shape \(0, 40\)"),
        ({"feat": array(10).ravel(), "label": "id1"}, r"shape \(400,\)"),
        ({"feat": array(10).astype(int), "label": "id1"}, "not float32 or float64"),
        ({"feat": array(10).astype(object), "label": "id1"}, ""),
    ],
)
def test_other_content_is_an_error(tmp_path: Path, content: object, reason: str) -> None:
    path = dump(tmp_path / "x.pkl", content)
    for read in (read_feature, locate):
        with pytest.raises(UserError, match=f"x.pkl.*{reason}"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_errors(tmp_path: Path, value: float) -> None:
    feat = array(300, "<f4")
    feat[150, 7] = value
    write_feature(tmp_path / "x.pkl", feat, "id1")
    where = locate(tmp_path / "x.pkl")
    assert len(read_frames(tmp_path / "x.pkl", where, 0, 150)) == 150
    for read in (lambda: read_feature(tmp_path / "x.pkl"), lambda: read_frames(tmp_path / "x.pkl", where, 100, 200)):
        with pytest.raises(UserError, match="x.pkl.*NaN"):
            read()


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    write_feature(tmp_path / "complete.pkl", array(12), "id00001")
    blob = (tmp_path / "complete.pkl").read_bytes()
    for size in [*range(0, 200), len(blob) - 1]:
        (tmp_path / "cut.pkl").write_bytes(blob[:size])
        with pytest.raises(UserError, match="cut.pkl"):
            read_feature(tmp_path / "cut.pkl")


def test_too_little_memory_is_not_reported_as_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_feature(tmp_path / "x.pkl", np.zeros((9, 40)), "id1")
    monkeypatch.setattr("dataset.features.load_feature", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        read_feature(tmp_path / "x.pkl")

"""The score file: the speakers of both sides for lists of every form."""

import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import EER_short
from configure import TREES
from dataset.features import write_feature
from dataset.trials import Trials, read_trials
from evaluation.embedding import Scores
from evaluation.metrics import eer_interval
from evaluation.score_file import read_compared, read_scores, speakers_of, write_scores
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from plotting.verification import draw_length, read_systems
from system.console import UserError

NAMES = [f"id{s:05d}/v/{u}" for s in range(20, 25) for u in range(4)]
PAIRS = [(a, b) for a in NAMES for b in NAMES if a < b]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features of five speakers and an untrained checkpoint."""
    home, rng = tmp_path_factory.mktemp("scores"), np.random.default_rng(0)
    for name in NAMES:
        feat = rng.normal(size=(60, 40)) * np.random.default_rng(int(name[2:7])).uniform(1, 9, 40)
        write_feature((home / TREES["vox1_test"].feat / name).with_suffix(".pkl"), feat.astype(np.float32), name[:7])
    torch.manual_seed(0)
    save_checkpoint(home / "model.pth", Checkpoint(1, state_dict_of(Encoder("resnet18"), None)))
    return home


def scored(home: Path, lines: list[str], *flags: str) -> Path:
    """Return the score file of a trial list at two lengths."""
    (home / "list.txt").write_text("\n".join(lines))
    network = ["--checkpoint", str(home / "model.pth"), "--save_path", str(home), "--trials", str(home / "list.txt")]
    EER_short.main([*network, "--test_length", "30", "full", "--save_scores", str(home / "list.csv"), *flags])
    return home / "list.csv"


@pytest.mark.parametrize("form", ["./wav/{}.wav", r"C:\wav\{}.wav"])
def test_speakers_come_from_the_data_for_all_forms_of_names(home: Path, form: str) -> None:
    path = scored(home, [f"{int(a[:7] == b[:7])} {form.format(a)} {form.format(b)}" for a, b in PAIRS])
    table = pandas.read_csv(path)
    assert list(table)[-2:] == ["enrol_speaker", "test_speaker"]
    for column, side in (("enrol_speaker", 0), ("test_speaker", 1)):
        assert table[column].tolist() == 2 * [pair[side][:7] for pair in PAIRS]
    check_bars(path, *np.array([[int(name[2:7]) for name in pair] for pair in PAIRS]).T)


@pytest.mark.slow
def test_trials_of_an_utterance_with_itself_are_counted(home: Path, capsys: pytest.CaptureFixture) -> None:
    same = [f"1 {name}.wav {name}" for name in NAMES[:3]]
    scored(home, [*same, *(f"{int(a[:7] == b[:7])} {a} {b}" for a, b in PAIRS)])
    assert "3 of the trials compare an utterance with itself" in capsys.readouterr().err


def test_a_model_has_the_speaker_of_its_utterances(home: Path) -> None:
    people = {"anna": "id00020", "ben": "id00021", "cleo": "id00022"}
    (home / "models.txt").write_text("".join(f"{name} {of}/v/0 {of}/v/1\n" for name, of in people.items()))
    trials = [(name, of, test) for name, of in people.items() for test in NAMES if test[-1] in "23"]
    path = scored(
        home, [f"{int(of == t[:7])} {name} {t}" for name, of, t in trials], "--enroll", str(home / "models.txt")
    )
    table = pandas.read_csv(path)
    assert table["enrol"].tolist() == 2 * [name for name, _, _ in trials]
    assert table["enrol_speaker"].tolist() == 2 * [of for _, of, _ in trials]
    check_bars(path, *np.array([[int(of[2:]), int(test[2:7])] for _, of, test in trials]).T)


def check_bars(path: Path, enrol: np.ndarray, test: np.ndarray) -> None:
    """Compare the bars of the length curve with the intervals computed from the given speakers (n,)."""
    table = pandas.read_csv(path)
    expected = [
        eer_interval(part["score"].to_numpy(), part["label"].to_numpy() == 1, enrol, test)
        for part in (table[table["length"] == length] for length in ("30", "full"))
    ]
    assert all(high > low for low, high in expected)
    np.testing.assert_allclose(bars_of(path), 100 * np.array(expected))


def bars_of(path: Path) -> np.ndarray:
    """Return the ends (bars, 2) of the bars of a length curve."""
    (axes,) = draw_length({"curve": path}).axes
    (bars,) = axes.collections
    return np.array([segment[:, 1] for segment in bars.get_segments()])  # type: ignore[attr-defined]


def curve(path: Path, scores: np.ndarray, labels: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> Path:
    """Write a score file of one length by hand."""
    speakers = {"enrol_speaker": enrol, "test_speaker": test}
    names = {"enrol": "a", "test": "b", "length": "full"}
    pandas.DataFrame({"label": labels.astype(int), "score": scores} | names | speakers).to_csv(path, index=False)
    return path


def test_an_interval_without_the_eer(tmp_path: Path) -> None:
    labels, speaker = np.repeat([1, 0, 0, 0, 0, 1], 100), 10 + np.arange(600) % 30
    others = np.where(labels, speaker, 10 + (speaker - 9) % 30)
    trials = -np.arange(600.0), labels, speaker, others  # the corners are at false-positive rates 0 and 1
    low, high = eer_interval(*trials)
    assert low > 0.2
    path = curve(tmp_path / "s.csv", *trials)
    np.testing.assert_allclose(bars_of(path), [[100 * low, 100 * high]])
    (axes,) = draw_length({"curve": path}).axes
    assert axes.lines[0].get_ydata() == [0]


def test_a_length_curve_of_trials_without_ratio(tmp_path: Path) -> None:
    speaker = np.array(["a", "b", "c", "d"])
    path = curve(tmp_path / "s.csv", np.arange(4.0), np.array([1, 0, 1, 0]), speaker, speaker)
    table = pandas.read_csv(path)
    pandas.concat([table.assign(snr=""), table.assign(snr="5")]).to_csv(path, index=False)
    (axes,) = draw_length({"curve": path}).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", ""]


def test_a_file_without_speakers_has_no_length_curve(tmp_path: Path) -> None:
    labels, speaker = np.array([1, 0, 1, 0]), np.array(["a", "b", "", "c"])
    path = curve(tmp_path / "s.csv", np.arange(4.0), labels, speaker, speaker)
    with pytest.raises(UserError, match="s.csv: .* enrol_speaker"):
        read_scores(path)
    pandas.read_csv(path).drop(columns=["enrol_speaker", "test_speaker"]).to_csv(path, index=False)
    with pytest.raises(UserError, match="curve: no column 'enrol_speaker'"):
        draw_length({"curve": path})
    assert [system.name for system in read_systems({"s": path})] == ["s"]  # other pictures do not need them


@pytest.mark.parametrize(
    "column, value",
    [("length", "2s"), ("length", ""), ("length", "0"), ("length", "1.5"), ("snr", "loud"), ("snr", "nan")],
)
def test_other_lengths_and_ratios_are_refused(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "s.csv"
    text = f"label,enrol,test,{column},score\n1,a,b,{{}},0.5\n0,a,c,{{}},0.1\n"
    path.write_text(text.format(value, value))
    with pytest.raises(UserError, match="s.csv: not a score file of --save_scores .*" + value):
        read_scores(path)
    for valid in ("100", "full") if column == "length" else ("-5", "2.5", "clean", "dry", ""):
        path.write_text(text.format(valid, valid))
        assert read_scores(path)[column].tolist() == [valid] * 2


def test_a_label_of_many_digits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(f"label,enrol,test,score\n{'1' * 27},a,b,0.5\n0,a,c,0.1\n")
    with pytest.raises(UserError, match="s.csv: not a score file"):
        read_scores(tmp_path / "s.csv")


def test_names_of_speakers_are_text(tmp_path: Path) -> None:
    speakers = np.array(["7", "007", "NA", "None"])
    path = curve(tmp_path / "s.csv", np.arange(4.0), np.array([1, 0, 1, 0]), speakers, speakers[::-1])
    assert speakers_of(read_scores(path)).tolist() == [[1, 0, 2, 3], [3, 2, 0, 1]]  # in the order of the names


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("tests", [["full"], ["full", "100"], ["full clean", "full 5"], ["100 5", "full 5"]])
def test_every_reader_reads_a_written_file(tmp_path: Path, tests: list[str], labelled: bool) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "s.csv"
    names = np.array(["a/v,1/x.wav", 'b/"v"/x.wav', "NA/v/1.wav", "7/v/1.wav", "é\udcff/v/1.wav", "a/v/2.wav"], object)
    trials = Trials(np.array([1, 0, 1, 0, 1, 0], bool)[: 6 * labelled], names, names[::-1])
    seconds = rng.integers(1, 999, (2, 6)) / 100
    scores = [
        Scores(length, seconds[0], seconds[1], rng.normal(size=6), None, 1.0, snr=snr)
        for length, _, snr in (test.partition(" ") for test in tests)
    ]
    write_scores(path, trials, scores, [names, names[::-1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the rows that repeat the trials
        for found, written in zip(read_trials(path, blind=True), trials, strict=True):
            np.testing.assert_array_equal(found, written)
    if not labelled:
        with pytest.raises(UserError, match="s.csv: not a score file"):
            read_scores(path)
        return
    compared = read_compared(path, trials, seconds[0], [(s.length, s.snr, seconds[1]) for s in scores])
    np.testing.assert_array_equal(compared, [s.plain for s in scores])
    for system in read_systems({"s": path}):
        np.testing.assert_array_equal(system.table["score"], np.concatenate([s.plain for s in scores]))
        assert system.table["enrol_speaker"].tolist() == [*names] * len(scores)

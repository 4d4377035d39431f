"""plots.py: each picture, from files of the scripts, and one-line errors."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import present, run_script
from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.legend import Legend
from matplotlib.transforms import Affine2D, Bbox

import plots
from evaluation import metrics
from plotting.style import add_fallback_fonts, as_text
from plotting.training import draw_training
from plotting.verification import draw_calibration, draw_det, draw_length, draw_scores, read_systems
from recognition.batch import EmbeddedRecording
from recognition.speakers import Speaker, save_speaker
from system.console import UsageError, UserError

LENGTHS = ("50", "100", "full")


def trials(gap: float, n: int = 300) -> pandas.DataFrame:
    """Return a score file of n target and n non-target trials of ten speakers."""
    rng, label = np.random.default_rng(0), np.repeat([1, 0], n)
    enrol = rng.integers(10, size=2 * n)
    test = np.where(label, enrol, (enrol + rng.integers(1, 10, 2 * n)) % 10)
    names = {side: [f"id{s}/v/1.wav" for s in of_side] for side, of_side in (("enrol", enrol), ("test", test))}
    speakers = {"enrol_speaker": [f"id{s}" for s in enrol], "test_speaker": [f"id{s}" for s in test]}
    return pandas.DataFrame({"label": label, **names, "score": rng.normal(gap * label, 1), **speakers})


NOISY = {
    ("100", "0"): 1,
    ("100", "20"): 2,
    ("100", "clean"): 3,
    ("full", "clean"): 4,
    ("full", "0"): 2,
    ("full", "20"): 3,
}


def with_llr(scored: pandas.DataFrame) -> pandas.DataFrame:
    """Add the columns of a calibrated evaluation; every second non-target trial is between the folds."""
    across = (scored["label"] == 0) & (np.arange(len(scored)) % 2 == 0)
    llr = (2 * scored["score"] - 1).mask(across)
    return scored.assign(enrol_seconds=3.5, test_seconds=1.0, llr=llr)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two systems' scores, a length curve, the log of a run, and enrolled speakers."""
    home, rng = tmp_path_factory.mktemp("plots"), np.random.default_rng(0)
    trials(1.5).to_csv(home / "weak.csv", index=False)
    strong = trials(3)
    strong.assign(score_as_norm=2 * strong["score"]).to_csv(home / "strong.csv", index=False)
    curve = [trials(at + 1).assign(length=length) for at, length in enumerate(LENGTHS)]
    pandas.concat(curve).pipe(with_llr).to_csv(home / "calibrated.csv", index=False)
    pandas.concat(curve).to_csv(home / "curve.csv", index=False)
    losses = {"loss": [9.0, 8.0], "episodic_loss": [4.0, 3.5], "global_loss": [5.0, 4.5]}
    accuracies = {"episodic_accuracy": [0.2, 0.3], "global_accuracy": [0.1, 0.2]}
    for name, val_eer in (("run", [None, 0.2]), ("blind", [None, None])):
        (home / name).mkdir()
        log = {"epoch": [1, 2], **losses, **accuracies, "lr": [0.1, 0.1], "val_eer": val_eer}
        pandas.DataFrame(log).to_csv(home / name / "log.csv", index=False)
    for name in ("Ana", "Ben", "Cleo"):
        embeddings = rng.normal(size=(2, 256)).astype(np.float32)
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        recordings = EmbeddedRecording("1.wav", unit[0], 1.0), EmbeddedRecording("2.wav", unit[1], 2.0)
        save_speaker(home / "voices", Speaker(name, recordings, "ab" * 32))
    return home


@pytest.mark.parametrize(
    "picture, inputs",
    [
        ("det", ["weak=weak.csv", "strong.csv"]),
        ("scores", ["weak.csv", "strong.csv"]),
        ("length", ["curve.csv"]),
        ("length", ["curve.csv", "calibrated.csv"]),
        ("det", ["weak.csv", "calibrated.csv"]),
        ("calibration", ["calibrated.csv"]),
        ("training", ["run", "other=blind"]),
        ("embeddings", ["voices"]),
    ],
)
def test_every_picture_is_drawn(home: Path, monkeypatch: pytest.MonkeyPatch, picture: str, inputs: list[str]) -> None:
    monkeypatch.chdir(home)
    plots.main([picture, *inputs, "-o", f"{picture}.png"])
    assert (home / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_command_line(home: Path) -> None:
    done = run_script("plots.py", "det", "a system=weak.csv", "-o", "pictures/det.svg", cwd=home)
    assert done.stdout == "pictures/det.svg: det\n"
    assert (home / "pictures" / "det.svg").read_text().startswith("<?xml")


def test_det_legend_has_each_system(home: Path) -> None:
    figure = draw_det({"weak": home / "weak.csv", "strong": home / "strong.csv"})
    legend = [text.get_text() for text in present(figure.axes[0].get_legend()).get_texts()]
    assert [line.split(": EER")[0] for line in legend] == ["weak", "strong", "strong, as-norm"]


def test_scores_mark_the_thresholds(home: Path) -> None:
    (axes,) = draw_scores({"weak": home / "weak.csv"}).axes
    legend = [text.get_text() for text in present(axes.get_legend()).get_texts()]
    thresholds = {text.split()[0] for text in legend if "trials" not in text}
    assert thresholds == {"EER", "minDCF(0.01)"} and {"300 non-target trials", "300 target trials"} < {*legend}


def test_length_curve_falls_and_full_utterances_come_last(home: Path) -> None:
    (axes,) = draw_length({"curve": home / "curve.csv"}).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "1", "full"]
    eers = np.asarray(axes.lines[0].get_ydata())
    assert len(eers) == 3 and (np.diff(eers) < 0).all()


@pytest.mark.slow
def test_a_curve_per_snr_or_a_curve_against_the_snr(home: Path) -> None:
    noisy = [trials(gap).assign(length=length, snr=snr) for (length, snr), gap in NOISY.items()]
    pandas.concat(noisy).to_csv(home / "noisy.csv", index=False)
    (axes,) = draw_length({"n": home / "noisy.csv"}).axes
    legend = axes.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == ["n, clean", "n, 20 dB", "n, 0 dB"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "full"]
    pandas.concat(noisy[:3]).to_csv(home / "one.csv", index=False)
    (axes,) = draw_length({"n": home / "one.csv"}).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "20", "clean"]
    eers = axes.lines[0].get_ydata()
    assert axes.get_xlabel() == "signal-to-noise ratio (dB)" and (np.diff(eers) < 0).all()


def test_calibration_shows_the_errors_of_trials_with_an_llr(home: Path) -> None:
    scored = with_llr(pandas.concat([trials(at + 1) for at in range(3)])).dropna()
    target, other = (scored["llr"][scored["label"] == kind] for kind in (1, 0))
    left, right = draw_calibration({"some": home / "calibrated.csv"}).axes
    assert [text.get_text() for text in present(left.get_legend()).get_texts()] == [
        "450 non-target trials",
        "900 target trials",
    ]
    errors = f"{100 * (target < 0).mean():.1f} % misses, {100 * (other >= 0).mean():.1f} % false acceptances"
    assert left.get_title() == "some" and right.get_title().endswith(errors)
    for line, of_kind in zip(right.lines[:2], (other, target), strict=True):  # Tippett: the share at each LLR or above
        x, first = np.unique(line.get_xdata(), return_index=True)
        np.testing.assert_allclose(np.asarray(line.get_ydata())[first], [100 * (of_kind >= llr).mean() for llr in x])
        assert line.get_drawstyle() == "steps-pre"


def test_llrs_of_all_trials_are_a_further_system(home: Path, tmp_path: Path) -> None:
    trials(2).assign(llr=lambda t: 2 * t["score"] - 2).to_csv(tmp_path / "all.csv", index=False)
    names = [system.name for system in read_systems({"part": home / "calibrated.csv", "all": tmp_path / "all.csv"})]
    assert names == ["part", "all", "all, LLR"]


def test_training_without_validation_has_three_axes(home: Path) -> None:
    assert len(draw_training({"run": home / "run"}).axes) == 4
    assert len(draw_training({"blind": home / "blind"}).axes) == 3


def test_errors_are_one_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    trials(1).query("label == 1").to_csv(tmp_path / "targets.csv", index=False)
    trials(1).assign(llr="a").to_csv(tmp_path / "words.csv", index=False)
    trials(1).assign(llr=lambda t: t["score"].where(t["label"] == 1)).to_csv(tmp_path / "half.csv", index=False)
    trials(1).assign(score=np.nan).to_csv(tmp_path / "nan.csv", index=False, na_rep="nan")
    recording = EmbeddedRecording("1.wav", np.eye(256, dtype=np.float32)[0], 1.0)
    save_speaker(tmp_path / "few", Speaker("Ana", (recording,), "ab"))
    for arguments, kind, message in (
        (["det", "weak.csv", "./weak.csv", "x=strong.csv"], UsageError, "NAME=PATH"),
        (["det", "absent.csv"], UserError, "absent.csv: no such score file"),
        (["det", str(tmp_path / "other.csv")], UserError, "other.csv: not a score file"),
        (["scores", str(tmp_path / "targets.csv")], UserError, "needs target and non-target trials"),
        (["length", "weak.csv"], UserError, "weak: no column 'length'"),
        (["calibration", "weak.csv"], UserError, "weak.csv: no column 'llr'"),
        (["calibration", str(tmp_path / "words.csv")], UserError, "words.csv: not a score file"),
        (
            ["calibration", str(tmp_path / "half.csv")],
            UserError,
            "half.csv: LLRs of target or",
        ),
        (["det", str(tmp_path / "nan.csv")], UserError, "nan.csv: not a score file.*finite"),
        (["training", "voices"], UserError, "log.csv: no such log"),
        (["training", "weak.csv"], UserError, "weak.csv: not the log of a run"),
        (["embeddings", str(tmp_path / "few")], UserError, "needs three speakers or more"),
    ):
        with pytest.raises(UserError, match=message) as error:
            plots.main([*arguments, "-o", "x.png"])
        assert type(error.value) is kind and "\n" not in str(error.value)
    with pytest.raises(UsageError, match="det.gif: the name must end in .png or .svg or .pdf"):
        plots.main(["det", "weak.csv", "-o", "det.gif"])


@pytest.mark.parametrize(
    "given, name, path",
    [
        ("runs/lr=0.1/full.csv", "full", "runs/lr=0.1/full.csv"),
        ("a=runs/lr=0.1/full.csv", "a", "runs/lr=0.1/full.csv"),
        ("lr=0.1=weak.csv", "lr=0.1", "weak.csv"),
        ("weak.csv=strong.csv", "weak.csv", "strong.csv"),
        ("x=1.csv", "x=1", "x=1.csv"),  # there are files x=1.csv and 1.csv
        ("y=1.csv", "y", "1.csv"),
        ("a=b=absent.csv", "a=b=absent", "a=b=absent.csv"),  # an error names all that was typed
        ("absent.csv", "absent", "absent.csv"),
        ("run", "run", "run"),
    ],
)
def test_an_existing_path_is_read_although_it_contains_equals_signs(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str, path: str
) -> None:
    (home / "runs" / "lr=0.1").mkdir(parents=True, exist_ok=True)
    for copy in ("runs/lr=0.1/full.csv", "x=1.csv", "1.csv"):
        (home / copy).write_bytes((home / "weak.csv").read_bytes())
    monkeypatch.chdir(home)
    assert plots.parse_args(["det", given, "-o", "x.png"]).inputs == [(name, Path(path))]


@pytest.mark.parametrize("suffix, start", [("PDF", b"%PDF"), ("pdf", b"%PDF"), ("Svg", b"<?xml"), ("PNG", b"\x89PNG")])
def test_suffixes_in_any_case(home: Path, tmp_path: Path, suffix: str, start: bytes) -> None:
    plots.main(["det", str(home / "weak.csv"), "-o", str(tmp_path / f"a.{suffix}")])
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(start)


def test_a_picture_never_overwrites_its_input(tmp_path: Path) -> None:
    trials(1).to_csv(tmp_path / "scores.png", index=False)
    before = (tmp_path / "scores.png").read_bytes()
    with pytest.raises(UsageError, match="scores.png: is also an input"):
        plots.main(["det", str(tmp_path / "scores.png"), "-o", str(tmp_path / "." / "scores.png")])
    assert (tmp_path / "scores.png").read_bytes() == before


def test_drawing_leaves_matplotlibs_settings_alone(home: Path, tmp_path: Path) -> None:
    with rc_context({"font.size": 7.0}):
        before = dict(rcParams)
        plots.main(["det", str(home / "weak.csv"), "-o", str(tmp_path / "a.pdf")])
        assert dict(rcParams) == before


def extents(figure: Figure) -> tuple[Bbox, list[Bbox]]:
    """Return the boxes of the legend and of the axes of a figure, in inches."""
    figure.draw_without_rendering()
    (legend,) = [legend for legend in figure.findobj(Legend) if legend.get_visible()]
    scale = Affine2D().scale(1 / figure.dpi)
    return legend.get_window_extent().transformed(scale), [
        a.get_window_extent().transformed(scale) for a in figure.axes
    ]


@pytest.fixture
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the time of dozens of intervals to a second."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_REPLICATES", 20)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [draw_det, draw_length])
def test_a_long_legend_is_outside_of_the_axes(
    home: Path, few_replicates: None, draw: Callable[[dict[str, Path]], Figure]
) -> None:
    few, many = ({f"system {at}": home / "curve.csv" for at in range(n)} for n in (1, 8))
    _, (alone,) = extents(draw(few))
    legend, (axes,) = extents(draw(many))
    assert legend.x0 > axes.x1
    assert axes.width > 0.9 * alone.width and axes.height > 0.9 * alone.height


def test_intervals_of_many_curves_stay_at_their_length(home: Path, few_replicates: None) -> None:
    (axes,) = draw_length({str(at): home / "curve.csv" for at in range(24)}).axes
    curves = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_linestyle() != "None"]
    places = np.array(curves)
    assert places.shape == (24, 3) and np.abs(places - [0, 1, 2]).max() < 0.45
    assert len(np.unique(places)) == 72


@pytest.mark.parametrize("n_runs", [1, 2, 20])
def test_the_legend_of_runs_is_outside_of_the_axes(home: Path, n_runs: int) -> None:
    figure = draw_training({f"run {at}": home / "run" for at in range(n_runs)})
    legend, axes = extents(figure)
    assert all(legend.x0 > of_part.x1 for of_part in axes) and len(axes) == 4
    (shown,) = figure.legends
    names = [text.get_text() for text in shown.get_texts()]
    assert names == [f"run {at}" for at in range(n_runs) if n_runs > 1] + ["total", "episodic", "global"]
    looks = {(line.get_color(), line.get_marker()) for line in shown.get_lines()[:-3]}
    assert len(looks) == len(names) - 3
    for part, kinds in zip(figure.axes, (["-", "--", ":"], ["--", ":"], ["-"], ["-"]), strict=True):
        assert [line.get_linestyle() for line in part.lines] == n_runs * kinds


def test_names_are_drawn_as_typed(tmp_path: Path) -> None:
    trials(1).to_csv(tmp_path / "s.csv", index=False)
    names = ["_first", "$x", "A$b$", r"a\b_2$", r"$\nonsense$"]
    figure = draw_det({as_text(name): tmp_path / "s.csv" for name in names})
    figure.savefig(tmp_path / "all.svg")  # a formula that does not parse would raise
    (legend,) = (axes.get_legend() for axes in figure.axes)
    shown = [text.get_text().lstrip("\u200b") for text in present(legend).get_texts()]
    for name, text in zip(names, shown, strict=True):
        assert text.replace(r"\$", "$").startswith(f"{name}: EER") and "$" not in text.replace(r"\$", "")


def test_letters_that_the_font_lacks_come_from_another(tmp_path: Path) -> None:
    default = set(get_font(findfont("DejaVu Sans")).get_charmap())
    others = (set(get_font(font.fname).get_charmap()) for font in fontManager.ttflist if "Last" not in font.name)
    letter = next(chr(code) for codes in others for code in codes - default if chr(code).isprintable())
    trials(1).to_csv(tmp_path / "s.csv", index=False)
    figure = draw_det({f"Anna {letter}": tmp_path / "s.csv"})
    assert add_fallback_fonts(figure) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of letters that it draws as boxes
        figure.savefig(tmp_path / "a.png")


def test_letters_that_no_font_has_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [])
    trials(1).to_csv(tmp_path / "s.csv", index=False)
    hieroglyph = "\U00013000"
    plots.main(["det", f"{hieroglyph}={tmp_path / 's.csv'}", "-o", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").exists()
    assert hieroglyph in capsys.readouterr().err

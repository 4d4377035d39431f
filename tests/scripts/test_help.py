"""The --help of each script fits two screens, and each flag is in a titled group and states its default."""

import importlib
import re

import pytest

RECOGNIZE = ["recognize", *(f"recognize {name}" for name in ("compare", "enroll", "identify", "embed", "export"))]
SCRIPTS = [
    "train",
    "dataprep",
    "feat_extract.feature_extraction",
    *RECOGNIZE,
]  # a script, or a script and its subcommand


@pytest.mark.parametrize("command", SCRIPTS)
def test_help_is_short_and_states_defaults(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, *subcommand = command.split()
    monkeypatch.setattr("sys.argv", [f"{script}.py"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(script).parse_args([*subcommand, "--help"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 80
    description, flags = re.split(r"^(?=positional arguments:$|options:$)", "\n".join(lines), maxsplit=1, flags=re.M)
    assert len(re.findall(r"^ *(?:python|torchrun) ", description, re.MULTILINE)) <= 3
    grouped = []
    for section in re.split(r"^(?=\S)", flags, flags=re.MULTILINE):
        title, *entries = re.split(r"\n(?=  -)", section)
        if title.splitlines()[:1] != ["options:"]:
            grouped += entries
    assert len(grouped) == len(re.findall(r"^  -(?!h, )", flags, re.MULTILINE)), "a flag is in no titled group"
    valued = [entry for entry in grouped if not re.match(r"  --\w+( {2,}|\n)", entry)]  # a switch has no default
    silent = [entry for entry in valued if not re.search(r"\b(default|required)\b", entry)]
    assert not silent, f"no default is stated: {silent}"

import json
from pathlib import Path

import pytest
from conftest import write_wavs

from benchmarks.features import complete_commands
from configure import TREES
from system.console import UserError


@pytest.mark.slow
def test_complete_commands_are_timed_over_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wavs(tmp_path, "vox2_dev", range(2), 2)
    complete_commands(tmp_path / TREES["vox2_dev"].wav, repeats=1)
    wall, cpu = (json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert wall["n"] == cpu["n"] == 4 and len(wall["rates"]) == 3
    for way, (files_per_second,) in wall["rates"].items():
        assert 0 < files_per_second < 4 / 0.05  # no command starts in less
        assert cpu["rates"][way][0] > 0


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no wavs"):
        complete_commands(tmp_path, repeats=1)

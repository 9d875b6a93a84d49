"""What deploy/ offers works: systemd takes the unit, the options that are used are there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import tsrollup

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "tsrollup"
    text = (DEPLOY / "tsrollup-worker.service").read_text()
    unit = tmp_path / "tsrollup-worker.service"
    unit.write_text(text.replace("/opt/tsrollup/bin/tsrollup", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", ["tsrollup-worker.service", "Containerfile"])
def test_the_options_that_are_used_are_there(file: str) -> None:
    used = set(
        re.findall(r"--(?:check|log-format|jobs|listen|metrics-port)", (DEPLOY / file).read_text())
    )
    assert used
    assert [option for option in used if option not in tsrollup("worker", "--help").out] == []

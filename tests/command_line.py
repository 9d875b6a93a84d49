"""Runs `tsrollup` as people do, in a process of its own, or here, where there is much to run."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from tsrollup.cli import main


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


def tsrollup(*arguments: str, url: str | None = None, **environment: str) -> Finished:
    done = subprocess.run(
        [sys.executable, "-m", "tsrollup", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=_environment(url, environment),
        check=False,
        timeout=240,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def tsrollup_here(*arguments: str, url: str) -> Finished:
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([*arguments, "--url", url])
        except SystemExit as ended:
            code = ended.code
    assert code is None or isinstance(code, int)
    return Finished(code or 0, out.getvalue(), err.getvalue())


def start_tsrollup(
    *arguments: str, url: str | None = None, **environment: str
) -> subprocess.Popen[str]:
    """A command that goes on until it is told to stop."""
    return subprocess.Popen(
        [sys.executable, "-m", "tsrollup", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(url, environment),
    )


@contextmanager
def working(url: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A worker and the lines of its log; it is stopped in the end, and must end well."""
    worker = start_tsrollup("worker", *options, url=url)
    assert worker.stdout
    output = worker.stdout
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(output.readline, "")), daemon=True)
    reader.start()
    try:
        yield worker, lines
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, lines
    finally:
        worker.kill()
        worker.wait()
        reader.join()
        output.close()


def wait_for(lines: list[str], text: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in [*lines]:
            if text in line:
                return line
        time.sleep(0.02)
    raise AssertionError(f"{text} is not in {lines}")


def _environment(url: str | None, further: dict[str, str]) -> dict[str, str]:
    environment = {x: y for x, y in os.environ.items() if not x.startswith("TSROLLUP_")}
    if url:
        environment["TSROLLUP_URL"] = url
    return {**environment, **further}

"""Runs `tsrollup` as people do: a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


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


def start_tsrollup(*arguments: str, url: str) -> subprocess.Popen[str]:
    """A command that goes on until it is told to stop."""
    return subprocess.Popen(
        [sys.executable, "-m", "tsrollup", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(url, {}),
    )


def _environment(url: str | None, further: dict[str, str]) -> dict[str, str]:
    environment = {x: y for x, y in os.environ.items() if not x.startswith("TSROLLUP_")}
    if url:
        environment["TSROLLUP_URL"] = url
    return {**environment, **further}

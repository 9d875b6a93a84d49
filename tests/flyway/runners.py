"""A real Flyway and ours behind one method, so that a scenario cannot tell which it drives."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tsrollup import flyway
from tsrollup.flyway.configuration import configuration_from

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "flyway-11.8.2"
# These processes live too briefly for an optimising compiler to pay.
JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
ENVIRONMENT = {
    **os.environ,
    "REDGATE_DISABLE_TELEMETRY": "true",
    "JAVA_ARGS": " ".join(JAVA),
}

# Rank, version, description, type, state and checksum of each migration.
States = list[list[Any]]


@dataclass(frozen=True)
class Outcome:
    """Whether a command worked, and why not; for info, what it told."""

    ok: bool
    error: str = ""
    states: States | None = None


class Runner(Protocol):
    def run(self, command: str, parameters: Mapping[str, str]) -> Outcome: ...


class Ours:
    """Our runner, in this process."""

    commands: Mapping[str, Callable[[flyway.Configuration], object]] = {
        "migrate": flyway.migrate,
        "validate": flyway.validate,
        "repair": flyway.repair,
        "baseline": flyway.baseline,
        "clean": flyway.clean,
    }

    def run(self, command: str, parameters: Mapping[str, str]) -> Outcome:
        try:
            configuration = configuration_from(dict(parameters))
            if command == "info":
                return Outcome(True, states=_states(flyway.info(configuration)))
            self.commands[command](configuration)
        except flyway.FlywayError as error:
            return Outcome(False, str(error))
        return Outcome(True)


def _states(result: flyway.InfoResult) -> States:
    return [
        [
            info.rank,
            None if info.version is None else str(info.version),
            info.description,
            info.type,
            info.state.shown,
            info.checksum,
        ]
        for info in result.migrations
    ]


class Resident:
    """flyway-core in one Java process that lives as long as the tests."""

    def __init__(self, folder: Path) -> None:
        libraries = [HOME / "lib" / "*", HOME / "lib" / "flyway" / "*", HOME / "drivers" / "*"]
        classpath = os.pathsep.join(str(path) for path in [folder, *libraries])
        source = Path(__file__).with_name("FlywayServer.java")
        subprocess.run(
            ["javac", "-cp", classpath, "-d", str(folder), str(source)],
            check=True,
            capture_output=True,
        )
        self.log = (folder / "flyway.log").open("w")
        self.process = subprocess.Popen(
            ["java", *JAVA, "-cp", classpath, "FlywayServer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=ENVIRONMENT,
        )

    def run(self, command: str, parameters: Mapping[str, str]) -> Outcome:
        named = {f"flyway.{key}": value for key, value in parameters.items()}
        request = {"command": command, "parameters": named}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Outcome(answer["ok"], answer.get("error", ""), answer.get("migrations"))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.process.stdout.close()
        self.log.close()


def run_flyway(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command line."""
    return subprocess.run(
        [str(HOME / "flyway"), "-skipCheckForUpdate", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )

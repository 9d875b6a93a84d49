"""One data directory: made, started, found again, recovered."""

import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from tsrollup.embedded.account import Account, account_for, open_alone, require_passage
from tsrollup.embedded.places import bindir, default_data_dir
from tsrollup.errors import TsrollupError

DATABASE = "timeseries"
START_TIMEOUT = 60.0  # seconds; crash recovery of a busy server takes a while

OWN_FILES = {"lock", "log", "server.json", "server.new", "password", "pgdata", "pgdata.new"}
CLUSTER_SETTINGS = {
    "jit": "off",  # the planner's guesses about buckets start it for reads of 3 ms
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "shared_buffers": "256MB",
    "shared_preload_libraries": "pg_stat_statements",
    "timezone": "UTC",
    "unix_socket_directories": "",
}


@dataclass(frozen=True)
class Server:
    """A running embedded server; `url` is that of its `timeseries` database."""

    data_dir: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return self.url_for(DATABASE)

    def url_for(self, dbname: str, user: str = "postgres") -> str:
        password = f":{self.password}" if user == "postgres" else ""
        return (
            f"postgresql://{quote(user, safe='')}{password}"
            f"@127.0.0.1:{self.port}/{quote(dbname, safe='')}"
        )


@dataclass(frozen=True)
class Cluster:
    data_dir: Path
    bindir: Path
    account: Account

    @classmethod
    def at(cls, data_dir: Path | str | None) -> "Cluster":
        place = Path(data_dir) if data_dir else default_data_dir()
        place = place.expanduser().resolve()
        return cls(place, bindir(), account_for(place / "pgdata"))

    @property
    def pgdata(self) -> Path:
        return self.data_dir / "pgdata"

    @property
    def unfinished(self) -> Path:
        return self.data_dir / "pgdata.new"

    @property
    def log(self) -> Path:
        return self.data_dir / "log"

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def memory(self) -> Path:
        return self.data_dir / "server.json"

    def exists(self) -> bool:
        return (self.pgdata / "PG_VERSION").exists()

    def prepare(self) -> None:
        try:
            if self.data_dir.exists() and not self.data_dir.is_dir():
                raise TsrollupError(f"{self.data_dir} is not a folder", "give another --data-dir")
            if self.data_dir.exists() and not OWN_FILES.issuperset(
                x.name for x in self.data_dir.iterdir()
            ):
                raise TsrollupError(
                    f"{self.data_dir} holds files that are not an embedded server's",
                    "give an empty or a new folder as --data-dir",
                )
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.account.pass_through(self.data_dir)
            for file in (self.lock, self.log, self.memory, self.pgdata, self.unfinished):
                if file.is_symlink():
                    raise TsrollupError(
                        f"{file} is a link", "remove it, or give another --data-dir"
                    )
            os.close(self._open(self.lock))
        except OSError as error:
            raise TsrollupError(
                f"cannot use {self.data_dir}: {error.strerror}", "give another --data-dir"
            ) from error
        require_passage(self.account, self.data_dir)
        require_passage(self.account, self.bindir)

    @contextmanager
    def locked(self) -> Iterator[None]:
        handle = self._open(self.lock)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def initialise(self) -> None:
        if self.exists():
            return
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir()
        self.account.own(self.unfinished)
        self._remember(_free_port(), secrets.token_urlsafe(18))
        password_file = self.data_dir / "password"
        self._write(password_file, self._remembered().password)
        self.account.own(password_file)
        options = [f"--set={name}={value}" for name, value in CLUSTER_SETTINGS.items()]
        try:
            self.run(
                "initdb",
                f"--pgdata={self.unfinished}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                *options,
            )
        finally:
            password_file.unlink()
        self.unfinished.rename(self.pgdata)

    def find_running(self, wait: bool = True) -> Server | None:
        """The server, once it answers; None where no postmaster lives."""
        deadline = time.monotonic() + START_TIMEOUT
        while self.postmaster_pid():
            server = self._remembered()
            try:
                psycopg.connect(server.url_for("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if not wait:
                    return None
                if time.monotonic() > deadline:
                    raise TsrollupError(
                        f"the server in {self.data_dir} runs but does not answer: {error}",
                        f"read {self.log}",
                    ) from error
                time.sleep(0.1)
            else:
                return server
        return None

    def launch(self, port: int | None, settings: Mapping[str, str]) -> Server:
        remembered = self._remembered()
        wanted = port or remembered.port
        if not _is_free(wanted):
            if port:
                raise TsrollupError(f"port {port} is taken", "give another --port, or none")
            wanted = _free_port()
        # Left by a server that was killed; its number may be another process's by now.
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
        self._remember(wanted, remembered.password)
        given = {"port": str(wanted), "listen_addresses": "127.0.0.1", **settings}
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in given.items())
        self._launch_when_orphans_are_gone(options)
        return self._remembered()

    def _launch_when_orphans_are_gone(self, options: str) -> None:
        """Backends outlive a killed postmaster for a moment, and hold its shared memory."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            os.close(self._open(self.log))
            self.account.own(self.log)
            printed_before = self.log.stat().st_size
            try:
                self.run(
                    "pg_ctl", "start", "-w", "-t", str(int(START_TIMEOUT)),
                    "-D", str(self.pgdata), "-l", str(self.log), "-o", options,
                )  # fmt: skip
                return
            except TsrollupError as error:
                printed = self.log.read_bytes()[printed_before:].decode(errors="replace")
                orphans = "pre-existing shared memory block" in printed
                if not orphans or time.monotonic() > deadline:
                    reason = next((x for x in printed.splitlines() if "FATAL" in x), str(error))
                    raise TsrollupError(
                        f"the embedded server did not start: {reason.strip()}", f"read {self.log}"
                    ) from error
                time.sleep(0.2)

    def postmaster_pid(self) -> int | None:
        """The living postmaster of this very directory."""
        try:
            with os.fdopen(open_alone(self.pgdata / "postmaster.pid", os.O_RDONLY)) as file:
                pid = int(file.readline())
            os.kill(pid, 0)
            if sys.platform == "linux" and not Path(f"/proc/{pid}/cwd").samefile(self.pgdata):
                return None
        except (OSError, ValueError, TsrollupError):
            return None
        return pid

    def run(self, program: str, *arguments: str) -> None:
        try:
            done = subprocess.run(
                [str(self.bindir / program), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
                check=False,
                **self.account.subprocess_arguments(),
            )
        except OSError as error:
            raise TsrollupError(
                f"cannot run {self.bindir / program} as user {self.account.uid}: {error.strerror}",
                "check the rights of its folder, or install tsrollup where that user can read it",
            ) from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise TsrollupError(f"{program} failed: {said}", f"the data is in {self.data_dir}")

    @staticmethod
    def _open(path: Path, flags: int = 0) -> int:
        """Open or make a file; what a link in its place points to stays as it is."""
        return open_alone(path, os.O_WRONLY | os.O_CREAT | flags)

    def _write(self, path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        with os.fdopen(self._open(path, os.O_EXCL), "w") as file:
            file.write(text)

    def _remember(self, port: int, password: str) -> None:
        replacement = self.memory.with_suffix(".new")
        self._write(replacement, json.dumps({"port": port, "password": password}))
        replacement.replace(self.memory)

    def _remembered(self) -> Server:
        try:
            with os.fdopen(open_alone(self.memory, os.O_RDONLY)) as file:
                return Server(self.data_dir, **json.load(file))
        except (OSError, ValueError, TypeError) as error:
            raise TsrollupError(
                f"cannot read {self.memory}, which holds the server's port and password",
                "restore it, or start with another --data-dir",
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

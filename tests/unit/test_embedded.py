"""The embedded server: start, find, recover, stop."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from servers import new_pool_folder
from tsrollup import embedded
from tsrollup.embedded.account import account_for
from tsrollup.errors import TsrollupError


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = new_pool_folder()
    yield parent / "with a space"
    embedded.stop(parent / "with a space")
    shutil.rmtree(parent)


def test_start_makes_the_default_databases_and_is_idempotent(data_dir: Path) -> None:
    first = embedded.start(data_dir)
    again = embedded.start(data_dir)

    assert again == first
    with psycopg.connect(first.url) as connection:
        assert connection.info.dbname == "timeseries"
        assert connection.info.server_version >= 180000
        assert setting(connection, "jit") == "off"
        assert setting(connection, "max_locks_per_transaction") == "256"
        assert setting(connection, "data_directory") == str(data_dir / "pgdata")


def test_port_and_data_are_kept_over_a_stop(data_dir: Path) -> None:
    first = embedded.start(data_dir)
    with psycopg.connect(first.url) as connection:
        connection.execute("CREATE TABLE kept (id integer)")
    assert embedded.stop(data_dir)
    assert not embedded.stop(data_dir)
    assert embedded.status(data_dir).server is None

    second = embedded.start(data_dir)

    assert second == first
    with psycopg.connect(second.url) as connection:
        connection.execute("TABLE kept")


def test_a_killed_server_is_recovered(data_dir: Path) -> None:
    server = embedded.start(data_dir)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE survives AS SELECT 1 AS id")
        os.kill(postmaster(data_dir), signal.SIGKILL)
        assert embedded.status(data_dir).server is None

        again = embedded.start(data_dir)

    assert again.port == server.port
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT id FROM survives").fetchone() == (1,)


def test_a_stale_pid_file_with_another_process_number_is_no_obstacle(data_dir: Path) -> None:
    embedded.start(data_dir)
    pid_file = data_dir / "pgdata" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    embedded.stop(data_dir)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    assert embedded.status(data_dir).server is None
    with psycopg.connect(embedded.start(data_dir).url):
        pass


def test_two_data_directories_do_not_collide(data_dir: Path) -> None:
    other_dir = data_dir.with_name("other")
    first = embedded.start(data_dir)
    second = embedded.start(other_dir)
    try:
        assert first.port != second.port
        with psycopg.connect(second.url) as connection:
            assert setting(connection, "data_directory") == str(other_dir / "pgdata")
    finally:
        embedded.stop(other_dir)


def test_starts_at_once_find_one_server(data_dir: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: embedded.start(data_dir), range(4)))

    assert len(set(found)) == 1


def test_a_port_taken_meanwhile_is_replaced(data_dir: Path) -> None:
    server = embedded.start(data_dir)
    embedded.stop(data_dir)
    other_dir = data_dir.with_name("other")
    other = embedded.start(other_dir, port=server.port)
    try:
        assert embedded.start(data_dir).port != other.port
    finally:
        embedded.stop(other_dir)


def test_another_port_for_a_running_server_is_refused(data_dir: Path) -> None:
    server = embedded.start(data_dir)
    with pytest.raises(TsrollupError, match=f"already runs on port {server.port}"):
        embedded.start(data_dir, port=server.port + 1)


def test_a_folder_with_other_files_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "letter.txt").write_text("dear reader")
    with pytest.raises(TsrollupError, match="holds files that are not"):
        embedded.start(data_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_one_may_not_look_into_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(TsrollupError, match=r"cannot use .*: Permission denied"):
        embedded.start(tmp_path / "data")


def test_the_password_is_needed_and_private(data_dir: Path) -> None:
    server = embedded.start(data_dir)
    assert (data_dir / "server.json").stat().st_mode & 0o077 == 0
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts for another account")


@as_root
def test_the_servers_account_can_put_nothing_in_the_place_of_roots_files(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    account = account_for(data_dir / "pgdata")
    assert account.dropped
    for name in ("log", "lock", "server.json"):
        link = ["ln", "-sf", "/etc/passwd", str(data_dir / name)]
        assert subprocess.run(link, check=False, **account.subprocess_arguments()).returncode


@as_root
@pytest.mark.parametrize(
    "name", ["log", "lock", "server.json", "server.new", "password", "pgdata.new"]
)
def test_a_link_in_the_data_folder_is_not_followed(data_dir: Path, name: str) -> None:
    victim = data_dir.with_name("victim")
    victim.write_text("keep me")
    victim.chmod(0o600)
    if name == "password":  # only before there is a cluster
        data_dir.mkdir()
        (data_dir / "lock").touch()
    else:
        embedded.start(data_dir)
        embedded.stop(data_dir)
    (data_dir / name).unlink(missing_ok=True)
    (data_dir / name).symlink_to(victim)
    if name in ("server.new", "password"):
        embedded.start(data_dir)
    else:
        with pytest.raises(TsrollupError, match=f"{name} is a link"):
            embedded.start(data_dir)
    assert victim.read_text() == "keep me"
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (0, 0o600)
    if (data_dir / name).is_symlink():
        (data_dir / name).unlink()


@as_root
def test_a_file_that_has_another_name_too_is_not_given_away(data_dir: Path) -> None:
    victim = data_dir.with_name("victim")
    victim.write_text("keep me")
    embedded.start(data_dir)
    embedded.stop(data_dir)
    (data_dir / "log").unlink()
    (data_dir / "log").hardlink_to(victim)
    with pytest.raises(TsrollupError, match="log is no file of its own"):
        embedded.start(data_dir)
    assert (victim.read_text(), victim.stat().st_uid) == ("keep me", 0)


def test_a_pipe_in_the_place_of_the_pid_file_is_not_waited_for(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    os.mkfifo(data_dir / "pgdata" / "postmaster.pid")
    assert embedded.status(data_dir).pid is None
    embedded.start(data_dir)
    embedded.stop(data_dir)
    (data_dir / "server.json").unlink()
    os.mkfifo(data_dir / "server.json")
    with pytest.raises(TsrollupError, match=r"server\.json is no file of its own"):
        embedded.start(data_dir)


def test_a_folder_with_a_lock_of_somebody_elses_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "lock").touch()
    (data_dir / "status").touch()
    with pytest.raises(TsrollupError, match="holds files that are not"):
        embedded.start(data_dir)


@as_root
def test_a_folder_of_somebody_else_or_of_all_is_refused(data_dir: Path) -> None:
    for owner, mode, reason in ((1, 0o755, "is somebody else's"), (0, 0o1777, "others may write")):
        data_dir.mkdir()
        os.chown(data_dir, owner, 0)
        data_dir.chmod(mode)
        with pytest.raises(TsrollupError, match=reason):
            embedded.start(data_dir)
        found = data_dir.stat()
        assert (found.st_uid, found.st_mode & 0o7777) == (owner, mode)
        data_dir.rmdir()


@as_root
def test_a_folder_exchanged_for_a_link_is_left_alone(data_dir: Path) -> None:
    victim = data_dir.with_name("victim")
    victim.mkdir(mode=0o755)
    data_dir.symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic|directory"):
        account_for(data_dir / "pgdata").pass_through(data_dir)
    assert victim.stat().st_mode & 0o777 == 0o755


@as_root
def test_closed_folders_are_opened_only_where_asked_for(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = data_dir.with_name("closed")
    closed.mkdir(mode=0o700)
    monkeypatch.delenv("TSROLLUP_OPEN_FOLDERS", raising=False)
    with pytest.raises(TsrollupError, match=f"cannot pass {closed}"):
        embedded.start(closed / "data")
    assert closed.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TSROLLUP_OPEN_FOLDERS", "1")
    embedded.start(closed / "data")
    embedded.stop(closed / "data")
    assert closed.stat().st_mode & 0o777 == 0o701


@pytest.mark.parametrize("program", ["postgres", "psql", "pg_dump", "pg_restore", "pg_basebackup"])
def test_bindir_holds(program: str) -> None:
    printed = subprocess.check_output([embedded.bindir() / program, "--version"], text=True)
    assert "PostgreSQL" in printed


def postmaster(data_dir: Path) -> int:
    pid = embedded.status(data_dir).pid
    assert pid
    return pid


def setting(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row
    return str(row[0])

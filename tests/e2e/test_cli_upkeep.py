"""The commands that look after rollups: what they change, and what they print."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.main import get_command

from command_line import start_tsrollup, tsrollup
from command_line import tsrollup_here as here
from servers import PostgresServer
from tsrollup.cli import app

pytestmark = pytest.mark.spread

STATUS = "SELECT status FROM silver.rollup_config"


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    """A rollup of a small partitioned source, and nothing stored."""
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE raw.readings (ts timestamptz, device text, temp integer)"
            " PARTITION BY RANGE (ts);"
            "CREATE TABLE raw.readings_1 PARTITION OF raw.readings"
            " FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-02 00:00+00');"
            "INSERT INTO raw.readings"
            " SELECT t, 'd' || n, n FROM generate_series(1, 3) AS n,"
            "  generate_series('2026-01-01 00:00+00'::timestamptz, '2026-01-01 05:59+00',"
            "   '10 minutes') AS t;"
            "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour',"
            " dimensions => '{device}', metrics => '{\"temp\": [\"avg\"]}')"
        )
    return server.url(database)


def asked(url: str, query: str) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]


def test_pause_resume_and_retry(url: str) -> None:
    paused = here("pause", "readings_1h", "--json", url=url)
    assert paused.json() == {"target_table": "silver.readings_1h", "status": "paused"}
    assert asked(url, STATUS) == "paused"
    (row,) = here("status", "--json", url=url).json()
    assert (row["health"], row["next_step"]) == (
        "paused",
        "SELECT silver.resume_rollup('silver.readings_1h')",
    )
    assert here("resume", "gold.readings_1h", url=url).out == "silver.readings_1h: resumed\n"
    assert asked(url, STATUS) == "active"
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE silver.rollup_config SET parked_at = now(), retry_count = 10")
    assert here("retry", "readings_1h", "--json", url=url).json()["status"] == "active"
    assert asked(url, STATUS) == "active"


def test_mark_stale_has_a_range_recomputed(url: str) -> None:
    here("run", url=url)
    marked = here(
        "mark-stale", "readings_1h", "2026-01-01 01:00+00", "2026-01-01 03:00+00", url=url
    )
    assert marked.code == 0, marked.err
    assert asked(url, "SELECT stale_buckets FROM silver.timeseries_operations_monitor") == 2
    (work,) = here("run", "--dry-run", "--json", url=url).json()
    assert (work["target"], work["buckets"], work["groups"]) == ("silver.readings_1h", 2, 0)
    assert asked(url, "SELECT stale_buckets FROM silver.timeseries_operations_monitor") == 2
    assert here("mark-stale", "readings", "-infinity", "infinity", "--json", url=url).code == 0
    (ran,) = here("run", "--json", url=url).json()
    assert ran["buckets"] >= 6


def test_retention_and_maintenance(url: str) -> None:
    kept = here("retention", "readings", "1 day", "--archive", "--json", url=url)
    assert kept.json() == {"table_name": "readings", "keep": "1 day", "archive": True}
    keep = "SELECT keep = '1 day' AND archive FROM rollup_engine.retention"
    assert asked(url, keep) is True
    here("run", url=url)
    actions = here("maintain", "--json", url=url).json()
    assert {"target", "action", "detail"} == actions[0].keys()
    assert here("retention", "readings", "forever", url=url).out == "readings is kept forever\n"
    assert asked(url, "SELECT keep IS NULL FROM rollup_engine.retention") is True


def test_metrics_and_a_rebuild(url: str) -> None:
    added = here("metric", "add", "readings_1h", '{"temp": ["max"]}', "--json", url=url)
    assert added.code == 0, added.err
    assert here("metric", "add", "readings_1h", "{", url=url).code == 2
    tenfold = ("--expressions", '{"tenfold": "temp * 10"}')
    added = here("metric", "add", "readings_1h", '{"tenfold": ["max"]}', *tenfold, url=url)
    assert added.code == 0, added.err
    assert asked(url, "SELECT max(tenfold_max) FROM gold.readings_1h") == 30
    here("run", url=url)
    assert asked(url, "SELECT max(temp_max) FROM gold.readings_1h") == 3
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE raw.readings ALTER temp TYPE bigint")
    assert here("rebuild", "readings_1h", url=url).code == 0
    found = "SELECT pg_typeof(temp_max)::text FROM gold.readings_1h LIMIT 1"
    assert asked(url, found) == "bigint"


def test_altered_and_without_a_metric(url: str) -> None:
    altered = here(
        "alter", "readings_1h", "--settle-delay", "5 minutes", "--new-name", "hourly", "--json",
        url=url,
    )  # fmt: skip
    assert altered.json() == {"target_table": "silver.hourly", "live_view": "gold.hourly"}
    assert asked(url, "SELECT settle_delay::text FROM silver.rollup_config") == "00:05:00"
    assert here("alter", "hourly", url=url).code == 2
    # Its new name is read as that by which it is called.
    for name in ('silver."q""z"', "HOURLY"):
        assert here("alter", "hourly", "--new-name", name, url=url).code == 0
        assert here("alter", name, "--new-name", "hourly", url=url).code == 0
    assert "it stays in silver" in here("alter", "hourly", "--new-name", "raw.x", url=url).err
    here("metric", "add", "hourly", '{"temp": ["max"]}', url=url)
    dropped = here("metric", "drop", "hourly", '{"temp": ["avg"]}', url=url)
    assert dropped.code == 0, dropped.err
    assert asked(url, "SELECT metrics::text FROM silver.rollup_config") == '{"temp": ["max"]}'


def test_suggest_indexes_says_what_it_lacks_or_answers(url: str) -> None:
    done = here("suggest-indexes", "readings", "-q", "SELECT FROM raw.readings", url=url)
    assert (done.code, done.err) == (0, "") or "hypopg" in done.err


def test_a_dry_run_tells_all_and_changes_nothing(url: str) -> None:
    before = asked(url, "SELECT count(*) FROM pg_class")
    line = ("create", "readings", "by_day", "1 day", "-d", "device", "--dry-run")
    told = here(*line, "--json", url=url).json()
    assert (told["target_table"], told["live_view"]) == ("silver.by_day", "gold.by_day")
    assert (told["dimensions"], told["time_column"]) == (["device"], "ts")
    assert told["metrics"] == {"temp": ["avg", "count", "max", "min", "sum"]} or told["metrics"]
    assert "GROUP BY" in told["refresh_sql"]
    assert "by_day" in here(*line, url=url).out
    assert asked(url, "SELECT count(*) FROM pg_class") == before
    refused = here(*line[:2], "readings_1h", "1 day", "--dry-run", url=url)
    assert (refused.code, "TR003" in refused.err) == (1, True)


def test_a_failure_is_json_as_well(url: str) -> None:
    failed = tsrollup("pause", "nothing", "--json", url=url)
    assert (failed.code, failed.out) == (1, "")
    error = json.loads(failed.err)["error"]
    assert error["code"] == "TR002"
    assert "nothing" in error["message"]
    assert error["hint"]
    usage = tsrollup("pause", "--json", url=url)
    assert (usage.code, usage.out) == (2, "")
    assert "target" in json.loads(usage.err)["error"]["message"].lower()
    unreachable = tsrollup("status", "--json", "--url", "postgresql://me@127.0.0.1:1/there")
    assert json.loads(unreachable.err)["error"]["hint"]
    assert unreachable.code == 1


def test_times_are_iso_and_spans_are_seconds(url: str) -> None:
    (row,) = here("status", "--json", url=url).json()
    assert row["stale_since"][10] == "T"
    assert row["stale_since"][-6] in "+-"
    assert isinstance(row["lag"], float)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET timezone = 'Asia/Kolkata'")
    (row,) = here("status", "--json", url=url).json()
    assert row["stale_since"].endswith("+05:30")


def test_status_is_watched(url: str) -> None:
    watching = start_tsrollup("status", "--watch", "--every", "0.1", url=url)
    try:
        assert watching.stdout
        seen = 0
        for line in watching.stdout:
            seen += "silver.readings_1h" in line
            if seen == 3:
                break
    finally:
        watching.terminate()
        watching.communicate(timeout=30)


@pytest.mark.parametrize(("columns", "is_table"), [(60, False), (400, True)])
def test_what_is_wider_than_the_terminal_is_shown_as_records(
    url: str, columns: int, is_table: bool
) -> None:
    printed = on_terminal(columns, "status", "--url", url)
    assert ("waiting since" in printed.splitlines()[0]) is is_table
    assert max(map(len, printed.splitlines())) <= columns
    assert "lagging" in printed


def on_terminal(columns: int, *arguments: str) -> str:
    """What a command prints on a terminal of that width."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "tsrollup", *arguments]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=its, stdin=subprocess.DEVNULL, env=environment):
        os.close(its)
        printed = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # how a terminal ends
                break
            printed += block
    os.close(ours)
    return re.sub(r"\x1b\[[\d;]*m|\r", "", printed.decode())


def test_the_shell_completes_commands_and_names(url: str) -> None:
    for words, expected in (
        ("tsrollup ret", "retention"),
        ("tsrollup pause silver.", "silver.readings_1h"),
    ):
        done = tsrollup(
            url=url,
            _TSROLLUP_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD="2" if " pause" in words else "1",
        )
        assert expected in done.out.split(), done.err


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_completed_name_is_read_as_it_is(url: str, tmp_path: Path) -> None:
    trap = "$(touch trap)'`\"; touch trap #"
    names = ["Mixed", "two words", trap, "a\nb"]
    with psycopg.connect(url, autocommit=True) as connection:
        for name in names:
            connection.execute(
                "SELECT silver.create_rollup_table('readings', 'silver', %s, '1 hour')",
                [name],
            )

    def completed() -> list[str]:
        script = """
            source <(_TSROLLUP_COMPLETE=source_bash "$PROGRAM")
            COMP_WORDS=(tsrollup read) COMP_CWORD=2
            _tsrollup_completion "$PROGRAM" && printf '%s\\n' "${COMPREPLY[@]}"
        """
        done = subprocess.run(
            ["bash", "-c", script],
            env={
                **os.environ,
                "TSROLLUP_URL": url,
                "PROGRAM": str(Path(sys.executable).parent / "tsrollup"),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.splitlines()

    words = [x for x in completed() if "readings" not in x]
    assert "'\"Mixed\"'" in words
    assert len(words) == 3 * (len(names) - 2)  # none that ends a line, or holds what a shell runs
    assert not any("touch" in word for word in words)
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {' '.join(words)}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in read.stdout.splitlines():
        assert here("read", name, "--limit", "1", url=url).code == 0, name
    assert not (tmp_path / "trap").exists()
    for shell in ("zsh", "fish"):
        done = tsrollup(
            url=url,
            _TSROLLUP_COMPLETE=f"complete_{shell}",
            _TYPER_COMPLETE_FISH_ACTION="get-args",
            _TYPER_COMPLETE_ARGS="tsrollup read ",
        )
        assert "readings_1h" in done.out
        assert not any(word in done.out for word in ("Mixed", "two", "touch"))


# A line of each command that prints and ends; what begins with ? fails on some servers, or on all.
LINES = """
    create readings by_day 1day
    run
    refresh readings_1h 2026-01-01 2026-01-02
    status
    log
    log --errors
    read readings_1h
    pause readings_1h
    resume readings_1h
    retry readings_1h
    rebuild readings_1h
    alter readings_1h --settle-delay 1s
    mark-stale readings 2026-01-01 2026-01-02
    retention readings_1h forever
    maintain
    metric add readings_1h {"temp":["min"]}
    metric drop readings_1h {"temp":["min"]}
    export
    apply FILE
    plan FILE
    doctor
    migrate
    info
    validate
    repair
    server status
    server bindir
    archive run --to FOLDER
    archive list
    archive verify
    ? archive restore readings 2026-01-01 2026-01-02
    ? suggest-indexes readings
    ? worker --check
    ? baseline
    ? clean
    drop by_day
"""
# Tested where a server, a page or a stream is theirs alone; Flyway's command line has its own JSON.
ELSEWHERE = {"demo", "dashboard", "server start", "server stop", "flyway"}


def test_every_command_prints_one_json_document(url: str, tmp_path: Path) -> None:
    lines = [line.split() for line in LINES.strip().splitlines()]
    said = [" ".join(word for word in words if word != "?") for words in lines]
    assert {
        name for name in every_command() if not any(f"{x} ".startswith(f"{name} ") for x in said)
    } == ELSEWHERE
    file = tmp_path / "rollups.toml"
    file.write_text(here("export", url=url).out)
    places = {"FILE": str(file), "FOLDER": str(tmp_path)}
    for words in lines:
        may_fail = words[0] == "?"
        given = [places.get(word, word) for word in words if word != "?"]
        done = here(*given, "--json", url=url)
        if may_fail and done.code == 1:
            assert json.loads(done.err)["error"]["message"], given
        else:
            assert done.code == 0, (given, done.err)
            assert done.json() is not None, given


def every_command() -> list[str]:
    def within(command: Any, words: str) -> Iterator[str]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from within(inner, f"{words} {name}".strip())
        if not hasattr(command, "commands"):
            yield words

    return list(within(get_command(app), ""))

"""Metrics: a scrape says what happened; the real Prometheus takes it, and its rules fire."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command_line import start_tsrollup
from servers import PostgresServer
from tsrollup import metrics
from tsrollup.lifeline import Lifeline

pytestmark = pytest.mark.spread

DEPLOY = Path(__file__).parents[2] / "deploy"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool"))
    and "TSROLLUP_REQUIRE_PROMETHEUS" not in os.environ,
    reason="needs Prometheus",
)


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.events (ts timestamptz, n integer)")
        connection.execute("INSERT INTO raw.events VALUES ('2026-01-01 00:30+00', 1)")
        connection.execute(
            "SELECT silver.create_rollup_table('events', 'silver', 'events_1h', '1 hour')"
        )
    return server.url(database)


@pytest.fixture
def port(url: str) -> Iterator[int]:
    """Where a worker on the database serves its metrics."""
    port = free_port()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CALL silver.run_rollups()")  # sizes are looked up once a minute
    worker = start_tsrollup("worker", "--every", "0.2", "--metrics-port", str(port), url=url)
    try:
        wait_until(lambda: "tsrollup_up 1.0" in scrape(port))
        yield port
    finally:
        worker.terminate()
        worker.communicate(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def scrape(port: int) -> str:
    return get(f"http://127.0.0.1:{port}/metrics")


def wait_until(condition: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def value(port: int, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", scrape(port), re.MULTILINE)
    return float(found[1]) if found else None


def fail(url: str) -> None:
    """From now on nothing more can be stored."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE silver.events_1h ADD CHECK (n_sum < 0) NOT VALID")
        connection.execute("INSERT INTO raw.events VALUES ('2026-01-02 00:30+00', 1)")


def test_a_scrape_says_what_happened(url: str, port: int) -> None:
    of = '{rollup="silver.events_1h"}'
    wait_until(lambda: value(port, f"tsrollup_stale_buckets{of}") == 0)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO raw.events VALUES ('2026-01-01 05:30+00', 1)")
    wait_until(lambda: value(port, f"tsrollup_batches_total{of}"))
    wait_until(lambda: value(port, f"tsrollup_rows_written_total{of}"))
    counts = re.compile(r"^tsrollup_batch(?:es_total|_duration_seconds_count)\{.*?\} (.*)$", re.M)
    assert len(set(counts.findall(scrape(port)))) == 1
    wait_until(lambda: value(port, f"tsrollup_stale_seconds{of}") == 0)
    assert value(port, 'tsrollup_health{health="ok",rollup="silver.events_1h"}') == 1
    wait_until(lambda: value(port, 'tsrollup_table_bytes{table="silver.events_1h"}'), 90)
    assert value(port, "tsrollup_change_log_rows") == 0
    fail(url)
    of_error = '{code="23514",rollup="silver.events_1h"}'
    wait_until(
        lambda: (
            value(port, f"tsrollup_errors_total{of_error}")
            or value(port, 'tsrollup_errors_total{rollup="silver.events_1h",code="23514"}')
        )
    )
    wait_until(lambda: (value(port, f"tsrollup_stale_seconds{of}") or 0) > 1)


def test_an_operator_has_metrics_from_the_first_batch_on(
    server: PostgresServer, database: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    role, lifeline = f"operator_{secrets.token_hex(4)}", Lifeline(threading.Event())
    port = free_port()
    with psycopg.connect(server.superuser_url(database), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN IN ROLE tsrollup_operator".encode())
        try:
            metrics.serve(server.url(database, role), port, "127.0.0.1", lifeline)
            connection.execute("SELECT silver.perform_rollup()")
            found = scrape(port)
            owner = metrics.Exporter(url, lifeline)
            theirs = {sample.name for family in owner.collect() for sample in family.samples}
            owner.disconnect()
        finally:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
                [role],
            )
            connection.execute(f"DROP ROLE {role}".encode())
    assert "tsrollup_up 1.0" in found
    assert 'tsrollup_batches_total{rollup="silver.events_1h"} 1.0' in found
    ours = set(re.findall(r"^(tsrollup_\w+)", found, re.MULTILINE))
    assert theirs - ours == set()
    assert not caplog.records
    assert "tsrollup_up 0.0" in scrape(port)
    assert "tsrollup_up 0.0" in scrape(port)
    assert "terminating connection" in caplog.records[0].getMessage()
    assert role in caplog.records[-1].getMessage()


def test_what_is_committed_behind_later_numbers_is_counted(url: str) -> None:
    exporter = metrics.Exporter(url, Lifeline(threading.Event()))

    def counted() -> dict[str, float]:
        samples = [sample for family in exporter.collect() for sample in family.samples]
        named = [s for s in samples if s.name == "tsrollup_batches_total"]
        return {s.labels["rollup"].removeprefix("silver."): s.value for s in named}

    def write(connection: psycopg.Connection[Any], rollup: str) -> None:
        connection.execute(
            "INSERT INTO silver.refresh_log (target_table, started_at, finished_at, from_time,"
            " to_time, buckets, rows_written, rows_deleted)"
            " VALUES (%s, now(), now(), now(), now(), 1, 1, 0)",
            [f"silver.{rollup}"],
        )

    with psycopg.connect(url) as slow, psycopg.connect(url, autocommit=True) as quick:
        write(quick, "before")
        write(slow, "begun_before")
        write(quick, "before")
        assert counted() == {"events_1h": 0}
        with psycopg.connect(url) as other:
            write(other, "slow")
            write(quick, "quick")
            assert counted() == {"events_1h": 0, "quick": 1}
            write(quick, "quick")
            slow.commit()
            assert counted() == {"events_1h": 0, "quick": 2, "begun_before": 1}
            assert counted() == {"events_1h": 0, "quick": 2, "begun_before": 1}
        write(quick, "quick")
        assert counted() == {"events_1h": 0, "quick": 3, "begun_before": 1, "slow": 1}
        assert not exporter.refreshed.missing
        quick.execute("DELETE FROM silver.refresh_log")  # as in a database that was made anew
        quick.execute("ALTER TABLE silver.refresh_log ALTER COLUMN id RESTART")
        write(quick, "before")
        before = counted()
        write(quick, "slow")
        assert counted() == before | {"slow": 2}
    exporter.disconnect()


def test_every_name_in_the_dashboard_and_the_rules_exists(port: int) -> None:
    families = set(re.findall(r"^# TYPE (\w+)", scrape(port), re.MULTILINE))
    families |= {f"{name}_bucket" for name in families}
    for file in ("grafana-dashboard.json", "prometheus-rules.yml"):
        used = set(re.findall(r"\btsrollup_\w+", (DEPLOY / file).read_text()))
        assert len(used) >= 5
        assert used <= families, file
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert len(dashboard["panels"]) > 10


@pytest.mark.usefixtures("url")
def test_the_queries_for_postgres_exporter_answer_what_they_name(
    server: PostgresServer, database: str
) -> None:
    text = (DEPLOY / "postgres-exporter-queries.yml").read_text()
    parts = re.findall(r"  query: \|\n((?:    .*\n)+)  metrics:\n((?:    - .*\n)+)", text)
    assert len(parts) == 2
    with psycopg.connect(server.superuser_url(database)) as connection:
        connection.execute("SET ROLE tsrollup_reader")
        for query, metrics in parts:
            columns = connection.execute(query.encode()).description or []
            named = re.findall(r"^    - (\w+):", metrics, re.MULTILINE)
            assert sorted(column.name for column in columns) == sorted(named)


@needs_prometheus
def test_promtool_finds_nothing_to_complain_of(port: int) -> None:
    rules = subprocess.run(
        ["promtool", "check", "rules", str(DEPLOY / "prometheus-rules.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rules.returncode == 0, rules.stderr
    scraped = scrape(port)
    metrics = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped, capture_output=True, text=True, check=False
    )
    ours = [line for line in (metrics.stdout + metrics.stderr).splitlines() if line]
    assert (metrics.returncode, ours) == (0, [])


@needs_prometheus
def test_one_worker_of_two_is_missed_and_nothing_counts_twice(tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    rates = [
        target["expr"].replace('rollup=~"$rollup"', "")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        if "_total" in target["expr"]
    ]
    assert len(rates) == 3
    of = 'job="tsrollup",rollup="s.r",code="1"'
    values = {
        'tsrollup_up{job="tsrollup",instance="a"}': "1x40",
        'tsrollup_up{job="tsrollup",instance="b"}': "1x9 stale",
        'up{job="tsrollup",instance="a"}': "1x40",
        'up{job="tsrollup",instance="b"}': "1x9 0x30",
        'up{job="tsrollup-sales",instance="c"}': "0x40",
    }
    for name in re.findall(r"tsrollup_\w+_total", " ".join(rates)):
        values |= {f'{name}{{{of},instance="{i}"}}': "0+300x40" for i in "ab"}
    samples = {f"sum({rate})": ("{}", 1500 if "increase" in rate else 5) for rate in rates}
    for i in "bc":
        fired = f'count by (instance) (ALERTS{{alertname="TsrollupDown",instance="{i}"}})'
        samples[fired] = (f'{{instance="{i}"}}', 1)
    trial = {
        "rule_files": [str(DEPLOY / "prometheus-rules.yml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in values.items()],
                "promql_expr_test": [
                    {"expr": e, "eval_time": "20m", "exp_samples": [{"labels": of, "value": v}]}
                    for e, (of, v) in samples.items()
                ],
            }
        ],
    }
    (tmp_path / "trial.yml").write_text(json.dumps(trial))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "trial.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_fires_as_the_docs_say(url: str, port: int, tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    (block,) = re.findall(r"\$ mkdir /tmp/alerts.*?(?=```)", page, re.DOTALL)
    own = free_port()
    for told, here in (
        ("/tmp/alerts", f"{tmp_path}/alerts"),
        ("localhost:9090", f"127.0.0.1:{own}"),
    ):
        assert told in block
        block = block.replace(told, here)
    make, shorten, check, start, *failing, ask = (line[2:] for line in block.splitlines())
    config = tmp_path / "alerts" / "prometheus-scrape.yml"

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=DEPLOY.parent,
            env={**os.environ, "TSROLLUP_URL": url, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for command in (make, shorten):
        run(command)
    text = config.read_text()
    assert text.count("15s") == 2
    config.write_text(text.replace("15s", "1s").replace("127.0.0.1:9465", f"127.0.0.1:{port}"))
    run(check)
    prometheus = subprocess.Popen(
        [*start.removesuffix(" &").split(), f"--web.listen-address=127.0.0.1:{own}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_up() -> bool:
        answer = get(f"http://127.0.0.1:{own}/api/v1/query?query=tsrollup_up")
        return bool(answer) and bool(json.loads(answer)["data"]["result"])

    def firing() -> set[str]:
        return set(re.findall(r'alertname="(\w+)"', run(ask)))

    try:
        wait_until(is_up)
        wait_until(lambda: firing() == set())
        for command in failing:
            run(command)
        wait_until(lambda: {"TsrollupFailing", "TsrollupStale"} <= firing())
    finally:
        prometheus.terminate()
        prometheus.wait(30)

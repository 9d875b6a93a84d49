"""The benchmarks run; what they measure here means nothing."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import BENCHMARKS, take_turns
from benchmarks.measure import Result, Sample, Steps, in_turn
from benchmarks.report import line, summary
from benchmarks.sizing import WHAT, Figures, Fleet, cores, most_rows, read_figures
from benchmarks.timescale import TimescaleWorkbench
from benchmarks.workbench import START, Sizes, Workbench, open_workbench

from servers import PostgresServer

pytestmark = pytest.mark.spread

CHECKOUT = Path(__file__).parents[2]
TINY = (
    "--days 1 --devices 2 --rounds 1 --history 5 --fleet 10 --partitions 3 --statements 1000"
    " --rollups 6 --reports 900 --seconds 1 --cold 1000 --minutes 3"
)


def run_benchmarks(server: PostgresServer, names: Sequence[str]) -> list[dict[str, Any]]:
    only = [word for name in names for word in ("--only", name)]
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--json", "--url", server.superuser_url("postgres"),
            *TINY.split(), *only,
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert run["machine"]["server"].startswith(str(server.version))
    results: list[dict[str, Any]] = run["results"]
    return results


@pytest.mark.long
@pytest.mark.parametrize("half", [0, 1])
def test_every_benchmark_runs_and_reads_what_is_right(server: PostgresServer, half: int) -> None:
    middle = len(BENCHMARKS) // 2  # what one leaves behind, the next finds
    names = list(BENCHMARKS)[middle * half : middle * (half + 1) + half]
    results = run_benchmarks(server, names)
    assert {x["benchmark"] for x in results} == set(names)
    assert all(x["seconds"] for x in results if "note" not in x)
    notes = [x["note"] for x in results if "note" in x]
    counts = [note for note in notes if note.endswith(" were written")]
    assert len(counts) == 2 * ("late_groups" in names)  # as many as the machine let through
    answers = [x["answer"] for x in results if "note" not in x]
    answers += [note for note in notes if note not in counts]
    assert set(answers) <= {"equal", "", "not measured: no pgbench found"}
    assert "equal" in answers


def test_answers_are_compared_row_by_row(server: PostgresServer) -> None:
    with open_workbench(Workbench, server.superuser_url("postgres"), Sizes(days=1)) as bench:
        bench.create_table("raw.few", 1)
        bench.fill("raw.few", START, bench.end, "1 hour", 2)
        with bench.rollup("few_1m", "raw.few"):
            bench.refresh("few_1m")
            late = START + timedelta(minutes=90)
            bench.session.execute("INSERT INTO raw.few VALUES (%s, 1, 20)", late)
            assert bench.judge("", "", "few_1m", "raw.few").text == "equal"
            bench.session.execute("UPDATE raw.few SET temp = temp + 1 WHERE device = 2")
            stored = f"TABLE {bench.stored('few_1m')}"
            assert bench.compare(stored, bench.grouped("raw.few")) == "25 rows DIFFER"


def test_two_systems_take_turns_and_wait_for_each_other() -> None:
    turns = []

    def benchmark(bench: Workbench) -> Steps:
        for what in ("1", "2"):

            def side(what: str = what) -> Sample:
                turns.append(bench.system[0] + what)
                return Sample(1)

            rounds = 4 if isinstance(bench, TimescaleWorkbench) else 1
            samples = yield from in_turn({"side": side}, rounds)
            yield Result("a", what, samples["side"])

    ours, theirs = (x.__new__(x) for x in (Workbench, TimescaleWorkbench))
    found = [(number, finding.what) for number, finding in take_turns(benchmark, [ours, theirs])]
    assert " ".join(turns) == "t1 T1 T1 T1 T1 t2 T2 T2 T2 T2"
    assert found == [(0, "1"), (1, "1"), (0, "2"), (1, "2")]


def test_what_takes_too_long_is_measured_once() -> None:
    measured = []

    def benchmark() -> Steps:
        sides = {"side": lambda: Sample(1)}
        measured.append((yield from in_turn(sides, rounds=9, warm_up=2, budget=-1)))

    assert list(benchmark()) == [None]
    assert measured == [{"side": [Sample(1)]}]


def test_limits_stand_beside_our_own_figures_only() -> None:
    ours, theirs = (x.__new__(x) for x in (Workbench, TimescaleWorkbench))
    result = Result("a", "read", [Sample(0.030)], [Sample(0.010)], limit=2, limit_ms=10)
    assert line(ours, result).endswith("  OVER: limit 2 or 10 ms")
    assert "limit" not in line(theirs, result)
    for passing in (
        Result("a", "read", [Sample(0.002)], [Sample(0.001)], limit=2),
        Result("a", "read", [Sample(0.010)], [Sample(0.001)], limit=2, limit_ms=10),
    ):
        assert passing.passed
    assert not Result("a", "read", [Sample(0.010, planning=0.006)], limit=20).passed


def test_the_summary_divides_our_time_by_theirs() -> None:
    ours = [Result("a", "read", [Sample(0.030)], [Sample(0.010)], limit=2, answer="equal")]
    theirs = [
        Result("a", "read", [Sample(0.060)], [Sample(0.010)], variant=variant, answer="9 DIFFER")
        for variant in ("default", "other")
    ]
    assert [x.split() for x in summary(ours, theirs)][1:] == [
        f"0.50 read, {variant} (30.00 / 60.00) 3.00 / 6.00 answers: equal / 9 DIFFER".split()
        for variant in ("default", "other")
    ]


def test_what_a_machine_takes_is_as_the_page_says() -> None:
    """From the figures of the page; and from those that a run of the benchmark prints."""
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.sizing"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    page = (CHECKOUT / "docs" / "scaling.md").read_text()
    shown = page.split("```text\n")[1].split("```")[0]
    assert [x.split() for x in said.splitlines()] == [x.split() for x in shown.splitlines()]
    figures = asdict(Figures())
    results = [
        {"benchmark": "capacity", "what": f"{what}, more", "value": figures[name] + 1}
        for name, what in WHAT.items()
    ]
    more = read_figures(iter(results))
    assert asdict(more) == {name: value + 1 for name, value in figures.items()}
    fleet = Fleet(devices=1000, every=10, keep_raw=30, keep_minutes=365)
    assert cores(fleet, more) > cores(fleet, Figures())
    assert cores(replace(fleet, devices=most(2)), Figures()) == pytest.approx(1)


def most(count: int) -> int:
    return round(10 * most_rows(count, Figures()))

"""The examples of README and docs/ work, in the order in which they stand, a database a page."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from servers import PostgresServer

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# Run by tests of their own.
ELSEWHERE = {"migrations.md", "fleet.md"}
GENERATED = {"sql-reference.md"}
LONGEST_PAGE = 150

FENCE = re.compile(
    r"(?P<skipped><!-- not run: [^\n]+ -->\n)?"
    r"```(?P<language>console|sql|python)\n(?P<text>.*?)```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    language: str
    text: str


def examples(page: Path) -> list[Example]:
    return [
        Example(found["language"], found["text"])
        for found in FENCE.finditer(page.read_text())
        if not found["skipped"]
    ]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ELSEWHERE and examples(page)], ids=str
)
def test_examples(
    page: Path,
    server: PostgresServer,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = server.url(database)
    monkeypatch.setenv("TSROLLUP_URL", url)
    monkeypatch.setenv("TSROLLUP_ARCHIVE_TO", str(tmp_path / "cold"))
    names: dict[str, object] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for example in examples(page):
            if example.language == "sql":
                for statement in statements(example.text):
                    connection.execute(statement.encode())
            elif example.language == "python":
                exec(example.text, names)
            else:
                run_console(example.text, url)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=str)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= LONGEST_PAGE


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def statements(text: str) -> list[str]:
    """CALL commits, so it cannot share a string with other statements."""
    return [part for part in re.split(r";[^\n;]*\n", text) if part.strip()]


def run_console(text: str, url: str) -> None:
    """Run the lines that start with a dollar; each other line must be in what they print."""
    commands: list[str] = []
    expected: list[str] = []
    for line in text.splitlines():
        (commands if line.startswith("$ ") else expected).append(line.removeprefix("$ "))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "TSROLLUP_URL": url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    for line in expected:
        assert line in done.stdout


# What the views of recipes.md say, asked of the raw table itself.
RECIPES = {
    "six_hours": """
        SELECT floor(extract(epoch FROM ts) / 21600) * 21600, device, avg(temp), max(temp)
        FROM raw.readings GROUP BY 1, 2""",
    "site_days": """
        SELECT date_trunc('day', ts, 'UTC'), site, avg(temp), min(temp), max(temp),
            (array_agg(temp ORDER BY ts DESC))[1], count(*)
        FROM raw.readings JOIN raw.devices USING (device) GROUP BY 1, 2""",
    "berlin_days": """
        SELECT date_trunc('day', ts, 'Europe/Berlin'), device, avg(temp),
            count(DISTINCT date_trunc('hour', ts, 'UTC')), count(*)
        FROM raw.readings GROUP BY 1, 2""",
}


@pytest.fixture
def recipes(db: psycopg.Connection) -> psycopg.Connection:
    for example in examples(ROOT / "docs" / "recipes.md"):
        for statement in statements(example.text):
            if "DROP VIEW" in statement:
                return db
            db.execute(statement.encode())
    raise AssertionError("the views are dropped at the end of the page")


def test_views_are_the_group_by_over_raw(recipes: psycopg.Connection) -> None:
    recipes.execute("SET extra_float_digits = -4")
    for late in (None, "UPDATE raw.readings SET temp = temp + 5 WHERE device = 'd2'"):
        if late:
            recipes.execute(late.encode())
        for view, query in RECIPES.items():
            rows = "SELECT array_agg(ROW(x.*)::text ORDER BY x) FROM ({}) AS x"
            found = recipes.execute(rows.format(f"TABLE public.{view}").encode()).fetchone()
            assert found == recipes.execute(rows.format(query).encode()).fetchone(), view


def test_the_day_of_23_hours(recipes: psycopg.Connection) -> None:
    hours = recipes.execute(
        "SELECT DISTINCT hours FROM public.berlin_days"
        " WHERE device = 'd2' AND day = '2026-03-29 00:00+01'"
    ).fetchall()
    assert hours == [(23,)]


def test_six_hours_without_gaps(recipes: psycopg.Connection) -> None:
    filled = recipes.execute(
        "SELECT count(*), count(row_count), count(temp_avg), count(temp_last) FROM public.filled"
    ).fetchone()
    assert filled == (18, 15, 18, 18)

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
ELSEWHERE = {"migrations.md"}  # its commands are run by the tests of the runner
GENERATED = {"sql-reference.md"}
LONGEST_PAGE = 150

FENCE = re.compile(
    r"(?P<skipped><!-- not run: [^\n]+ -->\n)?```(?P<language>console|sql)\n(?P<text>.*?)```",
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
def test_examples(page: Path, server: PostgresServer, database: str) -> None:
    url = server.url(database)
    with psycopg.connect(url, autocommit=True) as connection:
        for example in examples(page):
            if example.language == "sql":
                for statement in statements(example.text):
                    connection.execute(statement.encode())
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

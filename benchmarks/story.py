"""The page of docs/fleet.md, word for word, on more reports: what each call and read takes."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Note, Result, Steps
from benchmarks.workbench import Workbench

PAGE = Path(__file__).parents[1] / "docs" / "fleet.md"
ITS_REPORTS = "4000"


def story(bench: Workbench) -> Steps:
    """From the table to the last read."""
    run = bench.session
    for heading, statement in _statements(str(bench.sizes.reports)):
        if "must_be_zero" in statement:
            count = run.value(statement)
            answer = f"{count:,} rows DIFFER" if count else "equal"
            yield Note("story", "live view and GROUP BY", answer)
        else:
            sample = run.timed(partial(run.execute, statement))
            if statement.startswith(("SELECT", "CALL")):
                what = " ".join(statement.split())
                yield Result("story", f"{heading}: {what[:80]}", [sample])
        yield None
    for name in ("depots_1d", "trucks_1d", "trucks_1h", "trucks_5m"):
        bench.drop_rollup(name)
    run.execute("DROP TABLE public.reports")


def _statements(reports: str) -> Iterator[tuple[str, str]]:
    """Each statement of the page, with the heading that it stands under."""
    heading = ""
    for part in re.split(r"^(## .*|```sql\n(?s:.*?)```)$", PAGE.read_text(), flags=re.MULTILINE):
        if part.startswith("## "):
            heading = part.removeprefix("## ")
        elif part.startswith("```sql"):
            block = part.removeprefix("```sql\n").removesuffix("```").replace(ITS_REPORTS, reports)
            for statement in re.split(r";[^\n;]*\n", block):
                if statement.strip():
                    yield heading, statement.strip()

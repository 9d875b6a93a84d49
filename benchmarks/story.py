"""The page of docs/fleet.md, word for word, on more reports: what each call and read takes."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Note, Result, Steps
from benchmarks.workbench import Workbench

PAGE = Path(__file__).parents[1] / "docs" / "fleet.md"
ITS_REPORTS = "5000000"
PARTMAN = """
    SELECT coalesce(max('pg_partman ' || split_part(extversion, '.', 1)), 'no pg_partman')
    FROM pg_extension WHERE extname = 'pg_partman'
"""


def story(bench: Workbench) -> Steps:
    """From the table to the last read."""
    run = bench.session
    for heading, statement in statements(str(run.value(PARTMAN)), str(bench.sizes.reports)):
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
    for name in ("depots_1d", "trucks_1d", "trucks_1h", "trucks_1m"):
        bench.drop_rollup(name)
    run.execute("DROP TABLE public.reports")


def statements(partman: str, reports: str) -> Iterator[tuple[str, str]]:
    """Each statement of the page, with the heading that it stands under; of those that are for
    one pg_partman, or for none, as the comment behind them says, what is for this."""
    heading = ""
    for part in re.split(r"^(## .*|```sql\n(?s:.*?)```)$", PAGE.read_text(), flags=re.MULTILINE):
        if part.startswith("## "):
            heading = part.removeprefix("## ")
        elif part.startswith("```sql"):
            block = part.removeprefix("```sql\n").removesuffix("```").replace(ITS_REPORTS, reports)
            for found in re.finditer(r"(?s)(.*?);([^\n;]*)\n", block):
                if "pg_partman" not in found[2] or found[2].endswith(partman):
                    yield heading, found[1].strip()

"""The notebook of the docs runs, cell by cell, and what it shows is what its queries say.

TSROLLUP_UPDATE_DOCS=1 (`make docs`) writes what the cells show into it anew.
"""

import ast
import base64
import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import psycopg
import pytest

from servers import PostgresServer

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def run_cell(cell: dict[str, Any], names: dict[str, Any]) -> None:
    """As Jupyter does: what is printed, the plots, and the value of a last expression."""
    module = ast.parse("".join(cell["source"]))
    last = module.body[-1] if isinstance(module.body[-1], ast.Expr) else None
    if last:
        module.body.pop()
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(module, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        if html := getattr(value, "_repr_html_", lambda: None)():
            shown["text/html"] = html.splitlines(keepends=True)
        result: dict[str, Any] = {
            "output_type": "execute_result",
            "execution_count": None,
            "metadata": {},
        }
        outputs.append({**result, "data": shown})
    plots = names["plt"].get_fignums() if "plt" in names else []
    for number in plots:
        picture = io.BytesIO()
        names["plt"].figure(number).savefig(picture, dpi=80, bbox_inches="tight")
        names["plt"].close(number)
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    cell["outputs"] = outputs


@pytest.mark.spread
def test_the_notebook_runs(
    server: PostgresServer, database: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSROLLUP_URL", server.url(database))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    kept = [[sorted(x.get("data", {})) for x in cell["outputs"]] for cell in cells]
    names: dict[str, Any] = {}
    for cell in cells:
        run_cell(cell, names)
    if os.environ.get("TSROLLUP_UPDATE_DOCS"):
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    else:
        shown = [[sorted(x.get("data", {})) for x in cell["outputs"]] for cell in cells]
        assert shown == kept, "if that is meant: make docs"

    frame = names["frame"]
    assert len(frame) == 14 * 24 * 3
    assert frame.temp_avg.notna().all()
    assert frame.row_count.isna().sum() == 24
    profile = db.execute(
        "SELECT room, extract(hour FROM at AT TIME ZONE 'UTC')::integer, avg(temp) FROM raw.rooms"
        " WHERE temp < 40 GROUP BY 1, 2"
    ).fetchall()
    assert {(room, hour): names["profile"][room][hour] for room, hour, _ in profile} == (
        pytest.approx({(room, hour): mean for room, hour, mean in profile})
    )
    (late,) = names["late"].rows()
    assert (late["row_count"], late["temp_avg"]) == (2, 41)

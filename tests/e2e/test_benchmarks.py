"""The benchmarks run; what they measure here means nothing."""

import json
import subprocess
import sys
from pathlib import Path

from servers import PostgresServer

CHECKOUT = Path(__file__).parents[2]


def test_benchmarks_run_and_report_both_sides(server: PostgresServer) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--json", "--url", server.superuser_url("postgres"),
            *"--days 1 --devices 2 --rounds 1".split(),
            *"--only first_refresh --only late_rows --only copy_batches".split(),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert run["machine"]["server"].startswith(str(server.version))
    assert {x["benchmark"] for x in run["results"]} == {
        "first_refresh",
        "late_rows",
        "copy_batches",
    }
    assert all(x["seconds"] and x["reference_seconds"] for x in run["results"])

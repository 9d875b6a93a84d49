"""What health there is, each with a sign in the dashboard and a sample for Prometheus."""

import re
from importlib.resources import files

from tsrollup.dashboard import markup
from tsrollup.metrics import HEALTHS

ENGINE = "pgdb/migrations/foundational/timeseries/engine"


def test_every_health_is_shown_and_measured() -> None:
    text = files("tsrollup").joinpath(f"{ENGINE}/R__850_monitor.sql").read_text()
    body = text.split("CREATE OR REPLACE FUNCTION rollup_engine.rollup_health(")[1].split("$$")[1]
    told = set(re.findall(r"(?:THEN|ELSE) '(\w+)'", body)) | {"parked", "paused"}
    assert "lagging" in told
    assert set(markup.HEALTHS) == set(HEALTHS) == told

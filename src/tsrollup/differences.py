"""In what a rollup that is there differs from one that is declared."""

from typing import Any

from tsrollup.declarations import NATURE, Spec

# Compared as PostgreSQL reads them, however they are written.
MEANT = {"expressions": "meant_expressions", "filter": "meant_filter"}


def name_of(metric: Any) -> Any:
    return metric.get("as", metric.get("name")) if isinstance(metric, dict) else metric


def differing(is_now: Spec, wanted: Spec) -> list[str]:
    """By which keys it is another one."""
    return [key for key in NATURE if wanted[MEANT.get(key, key)] != is_now[MEANT.get(key, key)]]


def metrics_between(is_now: Spec, wanted: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that are to come, and those that are to go."""
    now, then = is_now["metrics"], wanted["metrics"]
    return without(then, now), without(now, then)


def without(these: Any, those: Any) -> dict[str, Any]:
    """Aggregates by column that are among the first and not among the others."""
    left = {
        column: [one for one in aggregates if one not in those.get(column, [])]
        for column, aggregates in these.items()
    }
    return {column: aggregates for column, aggregates in left.items() if aggregates}

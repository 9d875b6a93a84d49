"""What ECharts is told to draw."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from tsrollup.dashboard.series import Points, Series

Options = dict[str, Any]
Clock = Callable[[float], float]

# Python's calendar ends before PostgreSQL's.
EARLIEST, LATEST = -6e10, 2.5e11
LONG_NAME = 28


@dataclass(frozen=True)
class Colours:
    """Of a theme: text, grid, ground of the tooltip, stale ranges, and one for each series."""

    text: str
    grid: str
    ground: str
    stale: str
    series: tuple[str, ...]


LIGHT = Colours(
    "#4a5563", "#e3e7ec", "#ffffff", "rgba(217, 140, 0, 0.20)",
    ("#0b6e65", "#b3480f", "#3a5fbf", "#a1286a", "#5f7a12", "#6b4fb3", "#0f7fa8", "#6b6f76"),
)  # fmt: skip
DARK = Colours(
    "#a9b4c2", "#2a3441", "#232e3b", "rgba(242, 184, 75, 0.22)",
    ("#4fc4b7", "#f0905a", "#8aa8f5", "#ef82b6", "#b3cf5b", "#b7a1f2", "#62c3e8", "#b4b9c1"),
)  # fmt: skip


def name_of(key: Sequence[str | None], metric: str) -> str:
    """A group by the values of its dimensions; without dimensions there is one, the metric."""
    return " · ".join("(null)" if x is None else x or "(empty)" for x in key) or metric


def on_clock(zone: tzinfo) -> Clock:
    """Seconds since 1970 as the milliseconds at which a UTC axis shows what clocks of a zone show.
    In the hour that a zone has twice a year, both are in the same place."""

    def place(seconds: float) -> float:
        moment = datetime.fromtimestamp(min(max(seconds, EARLIEST), LATEST), UTC)
        offset = zone.utcoffset(moment.astimezone(zone)) or timedelta()
        return (seconds + offset.total_seconds()) * 1000

    return place


def lines(
    points: Points,
    metric: str,
    begin: float,
    end: float,
    width: float | None,
    colours: Colours,
    at: Clock,
) -> Options:
    """A line for each group over [begin, end), and what is stale behind them."""
    stale = {
        "type": "line",
        "name": "stale",
        "data": [],
        "silent": True,
        "markArea": {
            "silent": True,
            "itemStyle": {"color": colours.stale},
            "data": [[{"xAxis": at(x)}, {"xAxis": at(y)}] for x, y in points.stale],
        },
    }
    drawn = [
        {
            "type": "line",
            "name": name_of(one.key, metric),
            "data": _data(one, width, at),
            "symbol": "circle",
            "symbolSize": 5,
            "showSymbol": len(one.times) <= 40,
            "lineStyle": {"width": 2},
            "emphasis": {"focus": "series"},
        }
        for one in points.series
    ]
    names = [one["name"] for one in drawn]
    return {
        **_frame(colours),
        "legend": {
            "type": "scroll",
            "bottom": 4,
            "icon": "circle",
            "itemWidth": 11,
            "itemHeight": 11,
            "textStyle": {"color": colours.text, **_cut(names)},
            "pageTextStyle": {"color": colours.text},
            "pageIconColor": colours.text,
            "pageIconInactiveColor": colours.grid,
            "data": names,
        },
        "grid": {"left": 8, "right": 16, "top": 16, "bottom": 44, "containLabel": True},
        "xAxis": {**_axis("time", colours), "min": at(begin), "max": at(end)},
        "yAxis": {**_axis("value", colours), "scale": True},
        "series": [stale, *drawn],
    }


def throughput(runs: Sequence[dict[str, Any]], colours: Colours) -> Options:
    """Rows and seconds of each of the newest batches, the oldest first."""
    oldest_first = list(reversed(runs))
    bars = [
        {
            "name": name,
            "type": kind,
            "yAxisIndex": axis,
            "symbolSize": 4,
            "data": [row[column] for row in oldest_first],
        }
        for axis, (name, kind, column) in enumerate(
            (("rows written", "bar", "rows_written"), ("seconds", "line", "seconds"))
        )
    ]
    return {
        **_frame(colours),
        "legend": {"top": 0, "textStyle": {"color": colours.text}},
        "grid": {"left": 8, "right": 8, "top": 36, "bottom": 4, "containLabel": True},
        "xAxis": {
            **_axis("category", colours),
            "data": [row["finished_at"][:19] for row in oldest_first],
            "axisLabel": {"show": False},
        },
        "yAxis": [
            _axis("value", colours),
            {**_axis("value", colours), "splitLine": {"show": False}},
        ],
        "series": bars,
    }


def _cut(names: Sequence[Any]) -> Options:
    """Long names share a legend that is as wide as a phone; the tooltip has all of them."""
    is_long = any(len(name) > LONG_NAME for name in names)
    return {"width": 200, "overflow": "truncate"} if is_long else {}


def _data(series: Series, width: float | None, at: Clock) -> list[tuple[float, float | None]]:
    """Points in milliseconds, with a gap where buckets are missing (a month may have 31 days)."""
    data: list[tuple[float, float | None]] = []
    before: float | None = None
    for moment, value in zip(series.times, series.values, strict=True):
        if before is not None and width and moment - before > 1.5 * width:
            data.append((at(before + width), None))
        data.append((at(moment), value if value is not None and math.isfinite(value) else None))
        before = moment
    return data


def _frame(colours: Colours) -> Options:
    return {
        "useUTC": True,
        "animation": False,
        "aria": {"enabled": True},
        "backgroundColor": "transparent",
        "color": list(colours.series),
        "textStyle": {"fontFamily": "inherit", "color": colours.text},
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "order": "valueDesc",
            "backgroundColor": colours.ground,
            "borderColor": colours.grid,
            "textStyle": {"color": colours.text, "fontSize": 13},
            # A name may be longer than a phone is wide.
            "extraCssText": "max-width: 100%; white-space: normal; overflow-wrap: anywhere",
        },
    }


def _axis(kind: str, colours: Colours) -> Options:
    return {
        "type": kind,
        "axisLabel": {"color": colours.text, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": colours.grid}},
        "axisTick": {"lineStyle": {"color": colours.grid}},
        "splitLine": {"show": kind == "value", "lineStyle": {"color": colours.grid}},
    }

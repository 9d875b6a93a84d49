"""Pictures of characters: where lines are broken, which groups are drawn, what bars say."""

import math
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tsrollup.errors import ArgumentError
from tsrollup.plots import plot, sparklines

BRAILLE = re.compile("[\u2801-\u28ff]")


def rows(values: list[Any], device: str | None = "d1", hours: list[int] | None = None) -> Any:
    return [
        {"bucket": f"2026-01-01T{hour:02}:00:00+00:00", "device": device, "v": value}
        for hour, value in zip(hours or range(len(values)), values, strict=False)
    ]


def drawn(rows: Any, width: int = 80, has_colours: bool = False) -> list[str]:
    return plot(rows, ["device"], "v", width, 24, has_colours).splitlines()


def columns_with_dots(lines: list[str]) -> set[int]:
    return {found.start() for line in lines for found in BRAILLE.finditer(line)}


def test_bars_say_least_and_most_and_leave_gaps() -> None:
    (line,) = sparklines(rows([1, 8, None, math.nan, Decimal("4.5")]), ["device"], None, 40)
    assert line["oldest to newest"] == "▁█  ▅"
    assert (line["device"], line["column"]) == ("d1", "v")
    assert (line["least"], line["most"], line["newest"]) == (1, 8, 4.5)
    (flat,) = sparklines(rows([timedelta(hours=1)] * 3), ["device"], ["v"], 40)
    assert (flat["oldest to newest"], flat["newest"]) == ("▄▄▄", 3600)
    (empty,) = sparklines(rows([None]), ["device"], ["v"], 40)
    assert (empty["oldest to newest"], empty["least"]) == ("", None)


def test_more_values_than_columns_are_drawn_as_means() -> None:
    (line,) = sparklines(rows([0, 2, 10, 12, 20, 22]), ["device"], ["v"], 3)
    assert line["oldest to newest"] == "▁▅█"


def test_a_line_is_broken_where_buckets_or_values_are_missing() -> None:
    whole = columns_with_dots(drawn(rows([5] * 13)))
    for broken in (
        rows([5] * 9, hours=[0, 1, 2, 3, 9, 10, 11, 12, 13]),
        rows([5, 5, 5, 5, None, None, None, None, 5, 5, 5, 5, 5]),
    ):
        found = columns_with_dots(drawn(broken))
        assert len(found) < 0.8 * len(whole)
        assert {min(found), max(found)} <= whole


def test_groups_are_told_apart_and_the_largest_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = sorted(rows([1, 2]) + rows([3, 4], None), key=lambda row: str(row["bucket"]))
    lines = drawn(mixed)
    assert lines[-2:] == ["1 d1", "2 (null)"]
    assert any("1" in line.partition("|")[2] for line in lines[:-2])
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in "".join(drawn(mixed, has_colours=True))
    many = [row for n in range(9) for row in rows([1] * (n + 1), f"d{n}")]
    named = drawn(sorted(many, key=lambda row: str(row["bucket"])))
    assert named[-1] == "6 of 9 groups, those with the most rows"
    assert named[-7] == "1 d8"


def test_it_fits_and_what_is_no_number_is_refused() -> None:
    for width in (40, 80, 120):
        lines = drawn(rows([1e9, -1e9, 3]), width)
        assert max(map(len, lines)) <= width
    assert drawn(rows([7]))
    for wrong in ("text", True, ["a"]):
        with pytest.raises(ArgumentError, match="no column of numbers"):
            drawn(rows([wrong]))
    with pytest.raises(ArgumentError, match="cannot be drawn"):
        drawn([{"bucket": "0044-03-15T00:00:00+00:00 BC", "device": "d", "v": 1}])

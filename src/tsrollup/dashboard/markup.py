"""HTML without a hole: text is escaped unless it was made here; and values as people read them."""

import html
import re
from collections.abc import Sequence
from urllib.parse import urlencode

HEALTHS = {
    "ok": ("●", "ok"),
    "lagging": ("◐", "lagging"),
    "waiting_for_parent": ("◌", "waiting for parent"),
    "retrying": ("↻", "retrying"),
    "parked": ("■", "parked"),
    "paused": ("‖", "paused"),
    "invalid": ("✕", "invalid"),
}
# Where a person has to look.
TROUBLED = ("invalid", "parked", "retrying")

LONG = 40
SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(element: str, *content: object, **attributes: object) -> Html:
    """An element; `class_` is its class, and attributes that are None or False are left out."""
    given = "".join(
        f' {name.strip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{element}{given}>{join(content)}</{element}>")


def join(content: Sequence[object]) -> Html:
    return Html("".join(x if isinstance(x, Html) else html.escape(str(x)) for x in content))


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = ()
) -> Html:
    """A table that narrow screens show as records: each cell knows its heading."""
    head = [tag("th", name, scope="col", class_="number" if name in numbers else None)
            for name in headings]  # fmt: skip
    body = [
        tag(
            "tr",
            *(
                tag("td", value, data_label=name, class_="number" if name in numbers else None)
                for name, value in zip(headings, row, strict=True)
            ),
        )
        for row in rows
    ]
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="records")


def pairs(values: Sequence[tuple[str, object]]) -> Html:
    """Names and what they are, those that have something to say."""
    shown = [(name, value) for name, value in values if value not in (None, "")]
    facts = [
        tag("div", tag("dt", x), tag("dd", y), class_="wide" if len(str(y)) > LONG else None)
        for x, y in shown
    ]
    return tag("dl", *facts, class_="facts")


def health(name: str) -> Html:
    sign, words = HEALTHS.get(name, ("?", name))
    return tag("span", tag("span", sign, aria_hidden="true"), " ", words, class_=f"health {name}")


def pulse(rows: Sequence[int]) -> Html:
    """Bars of the rows written in each of the last minutes, a picture of a line's height."""
    if not any(rows):
        return Html("")
    most = max(rows)
    bars = [
        f'<rect x="{place * 2}" y="{20 - height}" width="1.500" height="{height}"/>'
        for place, count in enumerate(rows)
        if count and (height := max(2, round(20 * count / most)))
    ]
    words = f"rows written in the last hour: {number(sum(rows))}"
    return Html(
        f'<svg class="pulse" viewBox="0 0 {2 * len(rows)} 20" preserveAspectRatio="none"'
        f' role="img" aria-label="{words}"><title>{words}</title>{"".join(bars)}</svg>'
    )


def page_of(rollup: str) -> str:
    return f"/rollup?{urlencode({'name': rollup})}"


def number(value: float | None) -> str:
    if value is None:
        return ""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.3g}"


def span(seconds: float | None) -> str:
    """A length of time in one unit: 42 s, 3 min, 5 h, 12 d."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    for limit, unit, name in ((MINUTE, SECOND, "s"), (HOUR, MINUTE, "min"), (2 * DAY, HOUR, "h")):
        if seconds < limit:
            shown = seconds / unit
            return f"{shown:.1f} {name}" if name == "s" and shown < 10 else f"{shown:.0f} {name}"
    return f"{seconds / DAY:,.0f} d"


def ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return "just now" if seconds < 2 else f"{span(seconds)} ago"


def width(interval: str | None) -> str:
    """An interval as the server says it, such as '@ 1 mon' or '@ 48 hours', in people's words."""
    words = re.sub(r"\bmon(s?)\b", r"month\1", (interval or "").removeprefix("@ "))
    hours = re.fullmatch(r"(\d+) hours", words)
    if hours and int(hours[1]) % 24 == 0:
        return f"{int(hours[1]) // 24} day{'s' if hours[1] != '24' else ''}"
    return words


def moment(text: object) -> str:
    """A time of the server, in UTC: without fractions, and without what is midnight."""
    short = re.sub(r"(:\d\d)\.\d+", r"\1", str(text or "")).removesuffix("+00")
    return short.removesuffix(" 00:00:00")


def size(count: float | None) -> str:
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" or count >= 10 else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TB"

"""The live chart of a rollup: a metric of its gold view, by group, over a chosen time."""

import math
import time
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nicegui import ui
from nicegui.elements.html import Html as HtmlElement
from nicegui.events import ValueChangeEventArguments

from tsrollup.dashboard import chart, series
from tsrollup.dashboard.database import MONITOR_EVERY, Database
from tsrollup.dashboard.layout import failure, html
from tsrollup.dashboard.markup import DAY, HOUR, MINUTE, join, number, span, tag, width
from tsrollup.dashboard.queries import Rollup
from tsrollup.dashboard.series import MOST_BUCKETS, MOST_SERIES, Extent, Points, View
from tsrollup.errors import TsrollupError

SPANS = {
    "15 minutes": 15 * MINUTE,
    "1 hour": HOUR,
    "6 hours": 6 * HOUR,
    "1 day": DAY,
    "7 days": 7 * DAY,
    "30 days": 30 * DAY,
    "90 days": 90 * DAY,
    "1 year": 365 * DAY,
    "10 years": 3650 * DAY,
}
FEWEST_BUCKETS = 4
GOOD_BUCKETS = 200
EVERYTHING = "everything"
CUSTOM = "from … to …"
NULL = "null"
# A query that takes long is asked less often.
REST = 20.0
EXTENT_EVERY = 30.0


class ChartCard:
    def __init__(self, database: Database, rollup: Rollup, view: View) -> None:
        self.database, self.rollup, self.view = database, rollup, view
        self.extent = Extent(None, None)
        self.colours = chart.LIGHT
        self.zone = _zone(rollup.timezone)
        self.drawn: object = None
        self.choice: object = None  # what it is drawn of
        self.is_shown = False
        self.questions = 0
        self.next_query = 0.0
        self.next_extent = 0.0
        with ui.element("section").classes("card").props('aria-label="Chart"'):
            with ui.element("div").classes("controls"):
                self.metric = (
                    ui.select(list(view.metrics), value=_first_metric(view), label="Metric")
                    .props("outlined dense options-dense")
                    .classes("wide")
                )
                self.span = ui.select(self._spans(), value=EVERYTHING, label="Time").props(
                    "outlined dense options-dense"
                )
                self.by = (
                    ui.select(
                        list(view.dimensions),
                        value=list(view.dimensions[:1] if view.may_combine else view.dimensions),
                        multiple=True,
                        label="A line for each",
                    )
                    .props("outlined dense options-dense use-chips")
                    .classes("wide")
                )
                self.by.set_visibility(view.may_combine and len(view.dimensions) > 1)
                self.begin = _moment_input(f"From ({self.zone})")
                self.end = _moment_input(f"To ({self.zone})")
                self.dimensions = {name: _filter(name) for name in view.dimensions}
            self.plot = ui.echart({})
            self.plot.classes("plot")
            self.caption = html("", "p", "caption")
            self.failure: HtmlElement = html("")
        for moments in (self.begin, self.end):
            moments.bind_visibility_from(self.span, "value", value=CUSTOM)
        choices = (self.metric, self.span, self.by, self.begin, self.end)
        for control in (*choices, *self.dimensions.values()):
            control.on_value_change(self._choose)

    async def begin_to_show(self) -> None:
        """Once the browser is there."""
        await self._look_where_data_is()
        self.span.value = self._first_span()
        self.is_shown = True
        await self._offer_values()
        await self.draw()

    async def paint(self, colours: chart.Colours) -> None:
        self.colours = colours
        if self.is_shown:
            await self.draw()

    async def follow(self) -> None:
        """What the timer calls: the newest values, as often as the query's price allows."""
        if not self.is_shown or time.monotonic() < self.next_query:
            return
        if time.monotonic() > self.next_extent:
            await self._look_where_data_is()
        await self.draw()

    def window(self) -> tuple[float, float]:
        """The chosen time, in seconds since 1970: whole buckets' worth, never too many of them."""
        now = time.time()
        first = self.extent.first if self.extent.first is not None else now - DAY
        last = self.extent.last if self.extent.last is not None else now
        bucket = self.rollup.width_seconds or HOUR
        chosen = self.span.value
        length = SPANS.get(str(chosen), MOST_BUCKETS * bucket)
        end = now if now - length < last else last + 1
        offset = chart.on_clock(self.zone)(end) / 1000 - end
        end = math.ceil((end + offset) / bucket) * bucket - offset
        begin = max(end - length, first - bucket) if chosen == EVERYTHING else end - length
        if chosen == CUSTOM:
            begin, end = self._seconds(self.begin.value, begin), self._seconds(self.end.value, end)
        return max(begin, end - MOST_BUCKETS * bucket), max(end, begin + bucket)

    def moments(self) -> tuple[str, str]:
        """The chosen time as people write it, by the clocks of the rollup's zone."""
        begin, end = (self._text(x).replace("T", " ") for x in self.window())
        return begin, end

    async def _choose(self, event: ValueChangeEventArguments[Any]) -> None:
        if not self.is_shown:
            return
        if event.sender is self.span:
            await self._offer_values()
        await self.draw()

    async def _offer_values(self) -> None:
        """The values of each dimension that there are in the chosen time."""
        if self.span.value == CUSTOM and not self.begin.value:
            begin, end = (self._text(x) for x in self.window())
            self.begin.value, self.end.value = begin, end
        if not self.dimensions:
            return
        begin_at, end_at = self.window()
        try:
            found = await self.database.ask(
                lambda c: series.dimension_values(c, self.view, begin_at, end_at)
            )
        except TsrollupError:
            return  # the chart says why
        for name, select in self.dimensions.items():
            options = {_key(x): chart.name_of([x], "") for x in found[name]}
            chosen = {key: key[1:] for key in select.value if key not in options}
            select.set_options({**options, **chosen})

    async def draw(self) -> None:
        begin, end = self.window()
        metric = str(self.metric.value)
        chosen = {
            name: [None if key == NULL else key[1:] for key in select.value]
            for name, select in self.dimensions.items()
        }
        by = list(self.by.value)
        choice = (metric, chosen, by)
        self.questions += 1
        question, started = self.questions, time.monotonic()
        try:
            points = await self.database.ask(
                lambda c: series.points(
                    c, self.rollup.name, self.view, metric, begin, end, chosen, by
                )
            )
        except TsrollupError as error:
            hint = error.hint or "choose another time, or see its errors below"
            self.failure.content = failure(TsrollupError(error.message, hint))
            self.plot.set_visibility(choice == self.choice)
            self.next_query = time.monotonic() + MONITOR_EVERY
            return
        if question != self.questions:
            return  # something else was chosen meanwhile
        seconds = time.monotonic() - started
        self.next_query = time.monotonic() + min(seconds * REST, 60)
        self.failure.content = ""
        self.choice = choice
        self.plot.set_visibility(True)
        self.caption.content = self._caption(points, begin, end, seconds)
        options = chart.lines(
            points,
            metric,
            begin,
            end,
            self.rollup.width_seconds,
            self.colours,
            chart.on_clock(self.zone),
        )
        if options != self.drawn:
            self.drawn = options
            self.plot.options.clear()
            self.plot.options.update(options)
            self.plot.update()

    async def _look_where_data_is(self) -> None:
        self.next_extent = time.monotonic() + EXTENT_EVERY
        try:
            self.extent = await self.database.ask(
                lambda c: series.extent(c, self.rollup, self.view)
            )
        except TsrollupError:
            return  # where it was is good enough, and the next query says what is wrong

    def _text(self, seconds: float) -> str:
        known = min(max(seconds, chart.EARLIEST), chart.LATEST)
        return f"{datetime.fromtimestamp(known, self.zone):%Y-%m-%dT%H:%M}"

    def _seconds(self, text: str | None, otherwise: float) -> float:
        try:
            return datetime.fromisoformat(text or "").replace(tzinfo=self.zone).timestamp()
        except (ValueError, OverflowError):
            return otherwise

    def _spans(self) -> list[str]:
        bucket = self.rollup.width_seconds or HOUR
        fitting = [
            name
            for name, seconds in SPANS.items()
            if FEWEST_BUCKETS <= seconds / bucket <= MOST_BUCKETS
        ]
        return [*fitting, EVERYTHING, CUSTOM]

    def _first_span(self) -> str:
        bucket = self.rollup.width_seconds or HOUR
        known = self.extent
        if known.first is not None and known.last is not None:
            length = (known.last - known.first) / bucket
            if length <= GOOD_BUCKETS:
                return EVERYTHING
        fitting = [x for x in self._spans() if SPANS.get(x, math.inf) <= GOOD_BUCKETS * bucket]
        return fitting[-1] if fitting else EVERYTHING

    def _caption(self, points: Points, begin: float, end: float, seconds: float) -> str:
        bucket = self.rollup.width_seconds
        parts = [" to ".join(self.moments()) + f" {self.zone}"]
        if bucket and (buckets := (end - begin) / bucket):
            parts.append(f"{number(round(buckets))} buckets of {width(self.rollup.width)}")
            if buckets >= MOST_BUCKETS and self.span.value in (EVERYTHING, CUSTOM):
                parts.append("the newest only: a wider bucket shows more time")
        if points.groups > MOST_SERIES:
            parts.append(f"{MOST_SERIES} of {number(points.groups)} groups, those with most rows")
        parts.append(f"read in {seconds * 1000:.0f} ms" if seconds < 1 else f"in {span(seconds)}")
        swatch = [
            tag("span", "", class_="swatch"),
            f" stale: the view computes it from {self.rollup.source} as it is read",
        ]
        if not points.stale_is_known:
            swatch = ["what is stale is not for this role to know"]
        return join([" · ".join(parts), " · ", *swatch])


def _first_metric(view: View) -> str:
    averages = [name for name in view.metrics if name.endswith("_avg")]
    return (averages or list(view.metrics))[0]


def _key(value: str | None) -> str:
    return NULL if value is None else f"={value}"


def _filter(dimension: str) -> ui.select:
    chosen = ui.select({}, value=[], multiple=True, label=f"Only {dimension}", with_input=True)
    return chosen.props("outlined dense options-dense use-chips clearable").classes("wide")


def _moment_input(label: str) -> ui.input:
    return ui.input(label).props('outlined dense type="datetime-local" stack-label')


def _zone(name: str | None) -> tzinfo:
    """The zone of a rollup's buckets; UTC where this machine does not know it."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")

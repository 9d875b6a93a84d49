"""The page of a rollup: its chart, how it is doing, its runs, errors, partitions and definition."""

from collections.abc import Callable

from nicegui import ui

from tsrollup.dashboard import chart, details, queries, series
from tsrollup.dashboard.actions import Actions
from tsrollup.dashboard.chart_card import ChartCard
from tsrollup.dashboard.database import BUILT_WITHIN, MONITOR_EVERY, Database, Snapshot
from tsrollup.dashboard.layout import (
    begin_again,
    failure,
    frame,
    html,
    is_dark,
    when_colours_change,
)
from tsrollup.dashboard.markup import (
    Html,
    ago,
    health,
    join,
    moment,
    number,
    page_of,
    pairs,
    span,
    table,
    tag,
)
from tsrollup.dashboard.queries import Connection, Rollup, Row
from tsrollup.errors import TsrollupError

RUNS = 60
RUNS_IN_TABLE = 10
ERRORS = 20
PARTITIONS = 24
DETAILS_EVERY = 15.0
INSUFFICIENT_PRIVILEGE = "42501"


def register(database: Database) -> None:
    @ui.page("/rollup", response_timeout=BUILT_WITHIN)
    async def rollup(name: str = "") -> None:
        snapshot = await database.snapshot()
        found = snapshot.find(name)
        with frame(database, name or "Rollup") as page:
            page.show(snapshot)
            if found is None:
                html(_nowhere(name, snapshot))
                if not snapshot.is_known:
                    begin_again(database)
                return
            shown = RollupPage(database, found)
            await shown.build(snapshot)

        async def update() -> None:
            newer = await database.snapshot()
            page.show(newer)
            await shown.show(newer)

        ui.timer(MONITOR_EVERY, update, immediate=False)
        ui.timer(DETAILS_EVERY, shown.show_details, immediate=False)
        ui.timer(0.05, shown.begin_to_show, once=True)


class RollupPage:
    def __init__(self, database: Database, rollup: Rollup) -> None:
        self.database, self.rollup = database, rollup
        self.chart: ChartCard | None = None
        self.newest_runs: list[Row] = []
        self.colours = chart.LIGHT

    async def build(self, snapshot: Snapshot) -> None:
        html(_path(self.rollup, snapshot), "nav", "path").props('aria-label="Where it reads from"')
        self.title = html()
        self.reason = html()
        await self._build_chart()
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card").props('aria-label="How it is doing"'):
                html(tag("h2", "How it is doing"))
                self.facts = html()
            self.actions = Actions(self.database, self.rollup, self.chart)
        with ui.element("section").classes("card").props('aria-label="Runs"'):
            html(tag("h2", "Runs"))
            self.throughput = ui.echart(chart.throughput([], self.colours)).classes("plot small")
            self.throughput.set_visibility(False)
            self.runs = html()
        self.errors = _section("Errors")
        self.partitions = _section("Partitions and sizes")
        self.definition = _section("Definition")
        when_colours_change(self.paint)
        await self.show(snapshot)
        await self.show_details()

    async def begin_to_show(self) -> None:
        await ui.context.client.connected()
        await self.paint()
        if self.chart:
            await self.chart.begin_to_show()

    async def paint(self) -> None:
        """Charts in the colours of the browser."""
        self.colours = chart.DARK if await is_dark() else chart.LIGHT
        self._draw_throughput()
        if self.chart:
            await self.chart.paint(self.colours)

    async def show(self, snapshot: Snapshot) -> None:
        known = snapshot.find(self.rollup.name)
        if known is None:
            self.reason.content = _nowhere(self.rollup.name, snapshot)
            return
        self.rollup = known
        self.title.content = tag("div", tag("h1", known.name), health(known.health), class_="title")
        # What comes and goes does not move the chart.
        reason = _reason(known)
        self.reason.content = reason if known.needs_a_person else ""
        self.facts.content = join([_facts(known), "" if known.needs_a_person else reason])
        self.actions.show(known)
        if self.chart and ui.context.client.has_socket_connection:
            await self.chart.follow()

    async def show_details(self) -> None:
        name = self.rollup.name
        self.newest_runs = await self._read(
            self.runs, lambda c: queries.runs(c, name, RUNS), self._show_runs
        )
        await self._read(self.errors, lambda c: queries.errors(c, name, ERRORS), details.errors)
        await self._read(
            self.partitions, lambda c: queries.partitions(c, name, PARTITIONS), details.partitions
        )
        await self._read(
            self.definition, lambda c: [queries.definition(c, name) or {}], details.definition
        )

    async def _read(
        self,
        place: ui.html,
        question: Callable[[Connection], list[Row]],
        answer: Callable[[list[Row]], Html],
    ) -> list[Row]:
        try:
            rows = await self.database.ask(question)
            place.content = answer(rows)
        except TsrollupError as error:
            is_for_others = error.code == INSUFFICIENT_PRIVILEGE
            place.content = (
                tag("p", f"For members of tsrollup_operator: {error.message}", class_="quiet")
                if is_for_others
                else failure(error)
            )
            return []
        return rows

    async def _build_chart(self) -> None:
        name = self.rollup.view
        try:
            view = await self.database.ask(lambda c: series.view(c, name)) if name else None
            if view is None or not view.metrics:
                html(tag("p", "It has no live view that this role may read.", class_="card"))
                return
        except TsrollupError as error:
            html(failure(error), classes="card")
            return
        self.chart = ChartCard(self.database, self.rollup, view)

    def _show_runs(self, rows: list[Row]) -> Html:
        if rows != self.newest_runs:
            self.newest_runs = rows
            self._draw_throughput()
        self.throughput.set_visibility(len(rows) > 1)
        if not rows:
            return tag("p", "Nothing was refreshed in the last 30 days.", class_="quiet")
        return table(
            ("finished (UTC)", "from", "to", "buckets", "written", "deleted", "seconds"),
            [
                (
                    moment(row["finished_at"]), moment(row["from_time"]), moment(row["to_time"]),
                    number(row["buckets"]), number(row["rows_written"]),
                    number(row["rows_deleted"]), f"{row['seconds']:.3f}",
                )
                for row in rows[:RUNS_IN_TABLE]
            ],
            ("buckets", "written", "deleted", "seconds"),
        )  # fmt: skip

    def _draw_throughput(self) -> None:
        self.throughput.options.clear()
        self.throughput.options.update(chart.throughput(self.newest_runs, self.colours))
        self.throughput.update()


def _section(title: str) -> ui.html:
    with ui.element("section").classes("card").props(f'aria-label="{title}"'):
        html(tag("h2", title))
        return html()


def _nowhere(name: str, snapshot: Snapshot) -> Html:
    if not snapshot.is_known:
        return tag("p", "Nothing is known of it yet.", class_="card")
    return tag(
        "div",
        tag("h1", "There is no such rollup"),
        tag("p", name or "(no name)", " is not among the ", tag("a", "rollups", href="/"), "."),
        class_="card",
    )


def _path(rollup: Rollup, snapshot: Snapshot) -> Html:
    """From the raw table over its parents to it, and what reads it."""
    above: list[str] = [rollup.source]
    while parent := snapshot.find(above[0]):
        above.insert(0, parent.source)
    steps = [tag("a", x, href=page_of(x)) if snapshot.find(x) else tag("span", x) for x in above]
    arrow = tag("span", "→", aria_hidden="true")
    parts: list[object] = [y for step in steps for y in (step, arrow)]
    parts += [tag("b", rollup.name), arrow, tag("span", rollup.view or "no live view")]
    below = [x.name for x in snapshot.rollups if x.source == rollup.name]
    read_by = [tag("a", x, href=page_of(x)) for x in below]
    return join([*parts, *([tag("span", "read by", class_="quiet"), *read_by] if below else [])])


def _reason(rollup: Rollup) -> Html:
    if not rollup.reason:
        return Html("")
    step = tag("p", tag("strong", "Next step: "), rollup.next_step) if rollup.next_step else ""
    return tag("div", tag("p", rollup.reason), step, class_=f"alarm {rollup.health}")


def _facts(rollup: Rollup) -> Html:
    rate = rollup.success_rate
    return pairs(
        [
            ("stale buckets", number(rollup.stale_buckets)),
            ("in ranges", number(rollup.stale_ranges)),
            ("lag", span(rollup.lag) if rollup.lag else "none"),
            ("changes wait", f"for {span(rollup.waiting)}" if rollup.waiting is not None else ""),
            ("at work", _at_work(rollup)),
            ("to catch up", span(rollup.catch_up) if rollup.catch_up else ""),
            ("last run", ago(rollup.last_run_age)),
            ("rows a second", number(rollup.rows_per_second)),
            ("batches that succeeded", f"{rate:.0%} of the last day" if rate is not None else ""),
            ("next attempt", _soon(rollup.next_retry_in)),
            ("exact since", moment(rollup.exact_since)),
            ("late rows kept out", number(rollup.sealed_late_rows or None)),
            ("last error", "" if _is_told(rollup) else rollup.last_error),
        ]
    )  # fmt: skip


def _soon(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"in {span(seconds)}" if seconds > 0 else "by the next run"


def _is_told(rollup: Rollup) -> bool:
    return (rollup.last_error or "") in (rollup.reason or "")


def _at_work(rollup: Rollup) -> str:
    """Since when is seen by who may see what that session does."""
    if rollup.running_pid is None:
        return ""
    session = f"session {rollup.running_pid}"
    return session if rollup.running is None else f"for {span(rollup.running)}, {session}"

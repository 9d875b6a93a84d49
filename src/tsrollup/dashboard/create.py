"""A new rollup: what it would be, then the making of it."""

from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.events import ValueChangeEventArguments
from psycopg import sql
from psycopg.types.json import Jsonb

from tsrollup import rollups
from tsrollup.dashboard import queries, series
from tsrollup.dashboard.database import BUILT_WITHIN, MONITOR_EVERY, Database
from tsrollup.dashboard.layout import (
    Frame,
    begin_again,
    bring_into_view,
    failure,
    frame,
    html,
    main_button,
)
from tsrollup.dashboard.markup import Html, join, page_of, tag
from tsrollup.dashboard.queries import Connection, Row
from tsrollup.errors import TsrollupError

WIDTHS = ("1 minute", "5 minutes", "15 minutes", "1 hour", "1 day", "1 week", "1 month")
BY_COLUMN_TYPE = (
    "Nothing chosen: numbers get count, sum, min, max and avg, other columns the last value."
)


def register(database: Database) -> None:
    @ui.page("/create", response_timeout=BUILT_WITHIN)
    async def create() -> None:
        with frame(database, "New rollup") as page:
            html(tag("h1", "New rollup"))
            await Form(database).build(page)

        async def update() -> None:
            page.show(await database.snapshot())

        ui.timer(MONITOR_EVERY, update, immediate=False)


class Form:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.metrics: dict[str, ui.select] = {}

    async def build(self, page: Frame) -> None:
        page.show(await self.database.snapshot())
        try:
            sources = await self.database.ask(queries.sources)
        except TsrollupError as error:
            html(failure(error))
            begin_again(self.database)
            return
        with ui.element("section").classes("card form"):
            with ui.element("div").classes("pairs"):
                self.source = _select(sources, "Reads", on_change=self._take_source)
                self.name = ui.input("Name of its table").props("outlined dense")
                self.width = ui.input(
                    "Width of a bucket", value="1 hour", autocomplete=list(WIDTHS)
                ).props("outlined dense")
                self.time = _select([], "Time column").props("clearable")
                self.dimensions = _select([], "Dimensions", several=True)
            self.chooser = ui.element("div").classes("form")
            with ui.element("div").classes("buttons"):
                ui.button("Preview", on_click=self._preview).props("no-caps outline")
                self.make = main_button("Create", self._create)
            self.make.set_visibility(self.database.may_write)
            if not self.database.may_write:
                html(tag("p", "This dashboard only reads: the preview shows the statement to run.",
                         class_="quiet"))  # fmt: skip
        self.result = html("", "div", "result")
        self.result.props('role="status"')

    async def _take_source(self, event: ValueChangeEventArguments[Any]) -> None:
        source = event.value
        try:
            columns = await self.database.ask(lambda c: queries.columns(c, source))
        except TsrollupError as error:
            self.result.content = failure(error)
            return
        times = [row["name"] for row in columns if row["is_time"]]
        is_rollup = (await self.database.snapshot()).find(source) is not None
        self.time.set_options([] if is_rollup else times, value=None)
        self.time.set_visibility(not is_rollup and len(times) != 1)
        others = [row["name"] for row in columns if row["name"] not in times]
        self.dimensions.set_options([] if is_rollup else others, value=[])
        self.dimensions.set_visibility(not is_rollup)
        self._offer_metrics([] if is_rollup else columns)

    def _offer_metrics(self, columns: list[Row]) -> None:
        self.metrics = {}
        self.chooser.clear()
        if not columns:
            return
        with self.chooser:
            html(join([tag("h3", "Metrics"), tag("p", BY_COLUMN_TYPE, class_="quiet")]))
            with ui.element("div").classes("pairs"):
                for column in columns:
                    if not column["is_time"]:
                        label = f"{column['name']} ({column['type']})"
                        self.metrics[column["name"]] = _select(
                            column["aggregates"] or [], label, several=True
                        )

    def _arguments(self) -> tuple[str, str, str, dict[str, Any]]:
        given = [str(x.value or "").strip() for x in (self.source, self.name, self.width)]
        for value, what in zip(given, ("what it reads", "a name", "a width"), strict=True):
            if not value:
                raise TsrollupError(f"it has no answer to: {what}", "fill it in")
        metrics = {name: select.value for name, select in self.metrics.items() if select.value}
        options = {
            "time_column": self.time.value or None,
            "dimensions": self.dimensions.value or None,
            "metrics": metrics or None,
        }
        return given[0], given[1], given[2], options

    async def _preview(self) -> None:
        await self._try(self._show_preview)

    async def _create(self) -> None:
        await self._try(self._make)

    async def _try(self, work: Callable[[], Any]) -> None:
        try:
            await work()
        except TsrollupError as error:
            self.result.content = failure(error)
        bring_into_view(self.result)

    async def _show_preview(self) -> None:
        source, name, width, options = self._arguments()
        statement = await self.database.ask(
            lambda c: _statement(source, *_target(c, name), width, options).as_string(c)
        )
        parts: list[Html] = [tag("h2", "It would run"), tag("pre", statement)]
        if self.database.may_write:
            made, remarks = await self.database.act(
                lambda c: _made_and_undone(c, source, name, width, options)
            )
            parts += [tag("p", remark, class_="quiet") for remark in remarks]
            parts += [
                tag("h3", "Columns of ", made["view"]),
                tag("p", ", ".join(made["columns"])),
                tag("h3", "The GROUP BY that it would stand for"),
                tag("pre", made["refresh_sql"]),
                tag("p", "It was made and undone: nothing has changed.", class_="quiet"),
            ]
        self.result.content = tag("section", *parts, class_="card")

    async def _make(self) -> None:
        source, name, width, options = self._arguments()
        made, remarks = await self.database.act(
            lambda c: rollups.create(c, source, *_target(c, name), width, options)
        )
        self.database.forget_snapshot()
        said = [tag("p", remark, class_="quiet") for remark in remarks]
        link = tag("a", made, href=page_of(made))
        self.result.content = tag(
            "section",
            tag("h2", "Created ", link),
            tag("p", "Its live view answers already; the next run stores it."),
            *said,
            class_="card",
        )


def _target(connection: Connection, name: str) -> tuple[str, str]:
    return rollups.split_target(connection, name)


def _statement(
    source: str, schema: str, table: str, width: str, options: dict[str, Any]
) -> sql.Composed:
    """What would be run, for people to read."""
    named = {
        name: sql.Literal(Jsonb(value) if isinstance(value, dict) else value)
        for name, value in options.items()
        if value is not None
    }
    given: list[sql.Composable] = [sql.Literal(x) for x in (source, schema, table, width)]
    given += [sql.SQL(f"{x} => {{}}").format(y) for x, y in named.items()]
    return sql.SQL("SELECT silver.create_rollup_table(\n    {})").format(
        sql.SQL(",\n    ").join(given)
    )


def _made_and_undone(
    connection: Connection, source: str, name: str, width: str, options: dict[str, Any]
) -> Row:
    """What a rollup would be, by making it in a transaction that ends as if nothing had been."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL lock_timeout = '2s'")
        made = rollups.create(connection, source, *_target(connection, name), width, options)
        found = queries.definition(connection, made) or {}
        view = series.view(connection, found["view"])
        found["columns"] = view.columns if view else ["(not for this role)"]
    return found


def _select(
    options: list[str],
    label: str,
    *,
    several: bool = False,
    on_change: Callable[[ValueChangeEventArguments[Any]], Any] | None = None,
) -> ui.select:
    chosen = ui.select(options, label=label, multiple=several, with_input=True, on_change=on_change)
    return chosen.props("outlined dense options-dense" + (" use-chips" if several else ""))

"""What may be done to a rollup. Whether it may, the server decides: its refusal is shown."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from tsrollup import runs
from tsrollup.connection import pinned
from tsrollup.dashboard.chart_card import ChartCard
from tsrollup.dashboard.database import Database
from tsrollup.dashboard.layout import bring_into_view, failure, html, main_button
from tsrollup.dashboard.markup import Html, join, number, span, tag
from tsrollup.dashboard.queries import Connection, Rollup
from tsrollup.errors import TsrollupError

Work = Callable[[Connection], str]

CALLS = {
    "Retry": (
        "SELECT silver.reset_rollup_retry(%s)",
        "its failures are forgotten; the next run takes it up again",
    ),
    "Pause": ("SELECT silver.pause_rollup(%s)", "paused; the live view stays exact"),
    "Resume": ("SELECT silver.resume_rollup(%s)", "taken up again"),
}


class Actions:
    def __init__(self, database: Database, rollup: Rollup, chart: ChartCard | None) -> None:
        self.database, self.rollup, self.chart = database, rollup, chart
        self.buttons: dict[str, ui.button] = {}
        with ui.element("section").classes("card actions").props('aria-label="Actions"'):
            html(tag("h2", "Actions"))
            if not database.may_write:
                command = tag("code", "tsrollup dashboard --write")
                html(tag("p", "This dashboard only reads; ", command, " has buttons here."))
                return
            with ui.element("div").classes("buttons"):
                self.buttons["Refresh"] = ui.button("Refresh a range", on_click=self._ask_range)
                for label in ("Retry", "Pause"):
                    self.buttons[label] = ui.button(label, on_click=self._caller(label))
            for button in self.buttons.values():
                button.props("no-caps outline")
            self.outcome = html("", "div", "outcome")
            self.outcome.props('role="status"')
        self.show(rollup)

    def show(self, rollup: Rollup) -> None:
        """Only what makes sense for how the rollup is."""
        if not self.buttons:
            return
        paused = rollup.health == "paused" or rollup.is_active is False
        self.buttons["Pause"].text = "Resume" if paused else "Pause"  # one button keeps the focus
        self.buttons["Retry"].set_visibility(rollup.health in ("retrying", "parked"))

    def _caller(self, name: str) -> Callable[[], object]:
        def press() -> Awaitable[None]:
            label = self.buttons[name].text
            query, done = CALLS[label]

            def work(connection: Connection) -> str:
                with pinned(connection):
                    connection.execute(query.encode(), [self.rollup.name])
                return done

            return self._do(self.buttons[name], label, work)

        return press

    def _ask_range(self) -> None:
        begin, end = self.chart.moments() if self.chart else ("", "")
        zone = str(self.chart.zone) if self.chart else "UTC"
        with ui.dialog() as dialog, ui.element("div").classes("card dialog"):
            html(tag("h2", "Refresh a range"))
            html(tag("p", f"Recomputes every bucket that touches it, stale or not. Times: {zone}."))
            first = ui.input("From", value=begin).props("outlined dense")
            last = ui.input("To, not included", value=end).props("outlined dense")

            async def go() -> None:
                dialog.close()
                work = self._refresh(str(first.value), str(last.value), zone)
                await self._do(self.buttons["Refresh"], "Refresh", work)

            with ui.element("div").classes("buttons"):
                main_button("Refresh", go)
                ui.button("Cancel", on_click=dialog.close).props("no-caps flat")
        dialog.on("hide", dialog.delete)
        dialog.open()

    def _refresh(self, begin: str, end: str, zone: str) -> Work:
        def work(connection: Connection) -> str:
            connection.execute("SELECT set_config('TimeZone', %s, false)", [zone])
            summaries = runs.refresh(connection, self.rollup.name, begin, end)
            failed = [one for one in summaries if one.error]
            if failed:
                raise TsrollupError(f"{failed[0].target}: {failed[0].error}", "see its errors")
            return (
                "; ".join(
                    f"{one.target}: {number(one.buckets)} buckets, {number(one.rows_written)} rows"
                    f" written in {span(one.seconds)}"
                    for one in summaries
                )
                or "nothing to refresh there"
            )

        return work

    async def _do(self, button: ui.button, label: str, work: Work) -> None:
        button.props("loading")
        self.outcome.content = tag("p", "At work …")
        with self.outcome:  # the dialog that asked for it is gone by then
            try:
                done, remarks = await self.database.act(work)
                self.outcome.content = _outcome(label, done, remarks)
            except TsrollupError as error:
                self.outcome.content = failure(error)
            finally:
                button.props(remove="loading")
                bring_into_view(self.outcome)
        self.database.forget_snapshot()


def _outcome(label: str, done: str, remarks: list[str]) -> Html:
    said = [tag("p", remark, class_="quiet") for remark in remarks]
    return join([tag("p", tag("strong", f"{label}: "), done), *said])

"""The first page: the tree from raw over silver to gold, and how each rollup is doing."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from nicegui import ui
from nicegui.elements.html import Html as HtmlElement

from tsrollup.dashboard.database import BUILT_WITHIN, MONITOR_EVERY, Database, Snapshot
from tsrollup.dashboard.layout import frame, html
from tsrollup.dashboard.markup import (
    HEALTHS,
    Html,
    ago,
    health,
    join,
    number,
    page_of,
    pulse,
    span,
    tag,
    width,
)
from tsrollup.dashboard.queries import Rollup

# More rollups than that are searched.
AT_A_GLANCE = 12
NOTHING_YET = tag(
    "div",
    tag("h2", "No rollups yet"),
    tag("p", "Make the first one under ", tag("a", "New rollup", href="/create"), ", or run"),
    tag("pre", "tsrollup create raw.readings readings_1h '1 hour' --dimension device"),
    class_="card",
)


def register(database: Database) -> None:
    @ui.page("/", response_timeout=BUILT_WITHIN)
    async def overview() -> None:
        with frame(database, "Rollups") as page:
            html(tag("h1", "Rollups"))
            board = Board()

        async def update() -> None:
            snapshot = await database.snapshot()
            page.show(snapshot)
            board.show(snapshot)

        await update()
        ui.timer(MONITOR_EVERY, update, immediate=False)


class Board:
    """Counts, what needs a person, and a tree for each raw table. Links stay while their texts
    change, so that whoever moves by keyboard keeps the place."""

    def __init__(self) -> None:
        self.counts = html("", "ul", "counts")
        self.alarms = ui.element("div").classes("alarms")
        self.find = ui.input("Find a rollup", on_change=self._show_found).classes("find")
        self.find.props('outlined dense clearable type="search"')
        self.trees = ui.element("div").classes("trees")
        self.nothing = html(tag("p", "No rollup is called that.", class_="quiet"))
        self.nothing.props('role="status"')
        for element in (self.find, self.nothing):
            element.set_visibility(False)
        self.rollups: tuple[Rollup, ...] = ()
        self.shape: object = None
        self.rows: dict[str, HtmlElement] = {}
        self.places: dict[str, ui.element] = {}
        self.alarmed: list[tuple[str, str]] = []
        self.texts: dict[str, HtmlElement] = {}

    def show(self, snapshot: Snapshot) -> None:
        if not snapshot.is_known:
            return
        self.rollups = rollups = snapshot.rollups
        by_health = Counter(rollup.health for rollup in rollups)
        self.counts.content = join(
            [tag("li", health(x), " ", tag("b", by_health[x])) for x in HEALTHS if by_health[x]]
        )
        troubled = [x for x in rollups if x.needs_a_person]
        alarms = [(x.name, x.health) for x in troubled]
        if alarms != self.alarmed:
            self.alarmed = alarms
            self._raise_alarms(troubled)
        for rollup in troubled:
            self.texts[rollup.name].content = _trouble(rollup)
        shape = [(rollup.name, rollup.source) for rollup in rollups]
        if shape != self.shape:
            self.shape = shape
            self._plant(rollups)
        for rollup in rollups:
            self.rows[rollup.name].content = _line(rollup)
        self.find.set_visibility(len(rollups) > AT_A_GLANCE)
        self._show_found()

    def _show_found(self) -> None:
        """Those with all the words in their names or health, and what they read from."""
        words = str(self.find.value or "").casefold().split()
        sources = {rollup.name: rollup.source for rollup in self.rollups}
        found: set[str] = set()
        for rollup in self.rollups:
            text = f"{rollup.name} {rollup.view} {HEALTHS.get(rollup.health, ('', ''))[1]}"
            name: str | None = rollup.name if all(x in text.casefold() for x in words) else None
            while name and name not in found:
                found.add(name)
                name = sources.get(name)
        for name, place in self.places.items():
            place.set_visibility(name in found)
        self.nothing.set_visibility(bool(self.rollups) and not found)

    def _raise_alarms(self, rollups: Iterable[Rollup]) -> None:
        self.texts = {}
        self.alarms.clear()
        with self.alarms:
            for rollup in rollups:
                with ui.element("section").classes(f"alarm {rollup.health}"):
                    ui.link(rollup.name, page_of(rollup.name))
                    html(health(rollup.health), "span")
                    self.texts[rollup.name] = html()

    def _plant(self, rollups: Iterable[Rollup]) -> None:
        children: dict[str, list[Rollup]] = defaultdict(list)
        for rollup in rollups:
            children[rollup.source].append(rollup)
        names = {rollup.name for rollup in rollups}
        self.rows, self.places = {}, {}
        self.trees.clear()
        with self.trees:
            for source in sorted(children.keys() - names):
                with ui.element("section").classes("card tree") as self.places[source]:
                    html(tag("span", "raw", class_="layer"), "span")
                    html(tag("span", source), "h2")
                    self._branch(children, source)
            if not names:
                html(NOTHING_YET)

    def _branch(self, children: dict[str, list[Rollup]], parent: str) -> None:
        with ui.element("ul"):
            for rollup in sorted(children[parent], key=lambda x: (x.width_seconds or 0, x.name)):
                with ui.element("li") as self.places[rollup.name]:
                    with ui.link(target=page_of(rollup.name)).classes("rollup"):
                        self.rows[rollup.name] = html("", "span", "line")
                    if children.get(rollup.name):
                        self._branch(children, rollup.name)


def _trouble(rollup: Rollup) -> Html:
    what = rollup.reason or rollup.last_error or "see its page"
    step = tag("p", tag("strong", "Next step: "), rollup.next_step) if rollup.next_step else ""
    return join([tag("p", what), step])


def _line(rollup: Rollup) -> Html:
    stale = number(rollup.stale_buckets) if rollup.stale_buckets is not None else "unknown"
    return join(
        [
            tag(
                "span",
                tag("span", rollup.name, class_="name"),
                tag("span", "→\u00a0", rollup.view, class_="view") if rollup.view else "",
                class_="names",
            ),
            health(rollup.health),
            _value("bucket", width(rollup.width)),
            _value("stale", stale),
            _value("lag", span(rollup.lag) if rollup.lag else "none"),
            _value("last run", ago(rollup.last_run_age)),
            tag("span", pulse(rollup.pulse), class_="value beat"),
        ]
    )


def _value(name: str, value: str) -> Html:
    return tag("span", tag("small", name), " ", value, class_="value") if value else Html("")

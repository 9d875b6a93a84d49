"""What every page has: its head, where it is connected to, and what keeps it from being current."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files

from nicegui import ui
from nicegui.elements.html import Html as HtmlElement

from tsrollup.dashboard.database import MONITOR_EVERY, Database, Snapshot
from tsrollup.dashboard.markup import Html, tag
from tsrollup.errors import TsrollupError

THEME_COOKIE = "tsrollup_theme"
SWITCH_THEME = (
    "() => { const dark = document.body.classList.contains('body--dark');"
    f" document.cookie = `{THEME_COOKIE}=${{dark ? 'light' : 'dark'}}; path=/; max-age=31536000;"
    " samesite=lax`; location.reload(); }"
)
# Of a dashboard that asks for another token by now, a page that lost it would never hear again.
TOKEN_AGAIN = """<script>
setInterval(async () => {
  if (document.getElementById("popup").ariaHidden !== "false") return;
  const answer = await fetch("/login", {redirect: "manual"}).catch(() => null);
  if (answer?.ok) location.reload();
}, 2000);
</script>"""
ASSETS = files("tsrollup.dashboard") / "assets"


def html(content: str = "", element: str = "div", classes: str = "") -> HtmlElement:
    """An element of what markup.py made, which is escaped already."""
    return ui.html(content, sanitize=False, tag=element).classes(classes)


def main_button(label: str, on_click: Callable[[], object]) -> ui.button:
    """The one of several that does it, in colours of style.css: Quasar's are not for the dark."""
    made = ui.button(label, on_click=on_click, color=None)
    return made.props("no-caps unelevated").classes("primary")


class Frame:
    """The parts around a page's own that change."""

    def __init__(self, state: HtmlElement, banner: HtmlElement) -> None:
        self.state = state
        self.banner = banner

    def show(self, snapshot: Snapshot) -> None:
        if snapshot.error is None:
            self.state.content = tag("span", "live", class_="live on", title="read just now")
            self.banner.content = ""
            return
        self.state.content = tag("span", "not current", class_="live off")
        known = "What is shown is what was known last. " if snapshot.is_known else ""
        self.banner.content = tag("div", failure(snapshot.error), tag("p", known, "Trying again."))


@contextmanager
def frame(database: Database, title: str) -> Iterator[Frame]:
    """A page: head, banner, and inside the block its content."""
    ui.page_title(f"{title} · tsrollup")
    ui.colors(primary="var(--accent)", dark="var(--card)")
    ui.add_body_html(TOKEN_AGAIN)
    ui.add_css((ASSETS / "style.css").read_text())
    request = ui.context.client.request
    theme = request.cookies.get(THEME_COOKIE) if request else None
    if theme in ("dark", "light"):
        ui.dark_mode(theme == "dark")
    ui.link("Skip to content", "#content").classes("skip")
    with ui.element("header").classes("head"):
        with ui.link(target="/").classes("brand"):
            html(f"{(ASSETS / 'favicon.svg').read_text()}<span>tsrollup</span>", "span")
        html(tag("span", database.place), "span", "place")
        state = html("", "span")
        state.props('role="status"')
        with ui.element("nav").props('aria-label="Pages"'):
            ui.link("Rollups", "/")
            ui.link("New rollup", "/create")
            ui.button(icon="contrast").props(
                'flat round dense aria-label="Switch between light and dark"'
            ).on("click", js_handler=SWITCH_THEME)
    with ui.element("div").classes("page").props('id="content" tabindex="-1"'):
        banner = html("", "div", "banner")
        banner.props('role="alert"')
        yield Frame(state, banner)


def nowhere(database: Database) -> None:
    """What an address that is no page's leads to."""
    with frame(database, "No such page"):
        link = tag("a", "rollups", href="/")
        html(tag("h1", "There is no such page") + tag("p", "Go to the ", link, "."), classes="card")


def begin_again(database: Database) -> None:
    """Load this page anew once the database answers, which it did not when the page was built."""

    async def look() -> None:
        if (await database.snapshot()).error is None:
            ui.navigate.reload()

    ui.timer(MONITOR_EVERY, look, immediate=False)


def bring_into_view(element: ui.element) -> None:
    """What a button has led to may be below the window."""
    ui.run_javascript(
        "setTimeout(() => "
        f"document.getElementById('{element.html_id}')?.scrollIntoView({{block: 'nearest'}}), 100)"
    )


def failure(error: TsrollupError) -> Html:
    """The line of an error, and the next step."""
    step = tag("p", tag("strong", "Next step: "), error.hint) if error.hint else Html("")
    return tag("div", tag("p", error.message), step, class_="failure")


def when_colours_change(handler: Callable[[], Awaitable[None]]) -> None:
    """The browser goes dark while a page is open, in the evening for one."""
    ui.on("scheme", handler)
    ui.add_body_html(
        "<script>matchMedia('(prefers-color-scheme: dark)')"
        ".addEventListener('change', () => emitEvent('scheme'))</script>"
    )


async def is_dark() -> bool:
    """What the visitor's browser shows; light where it does not answer in time."""
    try:
        answer = await ui.run_javascript(
            "document.body.classList.contains('body--dark')", timeout=5.0
        )
    except TimeoutError:
        return False
    return bool(answer)

"""The dashboard as people use it: in Chromium, by keyboard, on a phone, while servers die."""

import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from dashboards import SCRIPT, browser, fill, free_port, running, served, view_as
from servers import PostgresServer, new_pool_folder
from tsrollup import embedded
from tsrollup.dashboard.chart import DARK, LIGHT
from tsrollup.migrations import migrate_project

pytestmark = pytest.mark.spread

__all__ = ["browser"]

PAGE = "rollup?name=silver.readings_1m"
CHART = """
const plot = document.querySelector('.plot');
const id = Number(plot.id.slice(1));
const options = getElement(id).chart.getOption();
return options.series.map(s => ({
    name: s.name, data: s.data, stale: (s.markArea?.[0] ?? s.markArea)?.data
}));
"""
TOOLTIP_GROUND = """
const plot = document.querySelector('.plot');
return getElement(Number(plot.id.slice(1))).chart.getOption().tooltip[0].backgroundColor;
"""
CUT_OFF = """
return [...document.querySelectorAll('.page *, .head *')].filter(e => {
    const box = e.getBoundingClientRect();
    const isOutside = box.right > arguments[0] + 1 || box.left < -1;
    return box.width && isOutside && !e.closest('thead');
}).map(e => e.outerHTML.slice(0, 120));
"""


@pytest.fixture
def url(server: PostgresServer, database: str, db: psycopg.Connection) -> str:
    fill(db)
    return server.url(database)


def wait_for(found: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := found():
                return answer
        except Exception:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def wait_for_text(browser: Chrome, text: str) -> None:
    try:
        wait_for(lambda: text in text_of(browser))
    except AssertionError:
        pytest.fail(f"{text!r} is not in {browser.current_url}: {text_of(browser)}")


def logged(browser: Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def text_of(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def series(browser: Chrome) -> dict[str, list[Any]]:
    """The drawn groups by name."""
    drawn = browser.execute_script(CHART)
    return {one["name"]: one["data"] for one in drawn if one["name"] != "stale"}


def point_at_chart(browser: Chrome) -> None:
    plot = browser.find_element(By.CSS_SELECTOR, ".plot")
    ActionChains(browser).move_to_element(plot).perform()


def bottom_of(browser: Chrome) -> int:
    """Where the window ends, of the page."""
    bottom: int = browser.execute_script("return window.scrollY + window.innerHeight + 1")
    return bottom


def button(browser: Chrome, label: str) -> WebElement:
    return next(
        one
        for one in browser.find_elements(By.TAG_NAME, "button")
        if one.text == label and one.is_displayed()
    )


def field(browser: Chrome, label: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"input[aria-label='{label}']")


def choose(browser: Chrome, label: str, text: str) -> None:
    """Type into a list that can be searched, and take what it then offers."""
    wait_for(lambda: field(browser, label)).send_keys(text)

    def offered() -> WebElement | None:
        items = browser.find_elements(By.CSS_SELECTOR, ".q-menu .q-item")
        return items[0] if [x.text for x in items] == [text] else None

    wait_for(offered).click()
    field(browser, label).send_keys(Keys.ESCAPE)


def asked(browser: Chrome) -> set[str]:
    """Addresses that the browser asked for since the last call."""
    found = set()
    for entry in logged(browser, "performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            found.add(message["params"]["url"])
    return found


def test_the_chart_moves_with_the_data_and_asks_nobody_else(
    url: str, db: psycopg.Connection, browser: Chrome
) -> None:
    logged(browser, "browser")
    asked(browser)
    with served(url) as address:
        browser.get(address + PAGE)
        drawn = wait_for(lambda: series(browser))
        assert set(drawn) == {"d1", SCRIPT, "(null)"}
        (stale,) = [x["stale"] for x in browser.execute_script(CHART) if x["name"] == "stale"]
        assert stale, "the late row of an hour ago, and the open bucket"
        db.execute("INSERT INTO raw.readings VALUES (now(), 'd1', 1e6)")
        wait_for(lambda: max(y or 0 for _, y in series(browser)["d1"]) > 1000)

        point_at_chart(browser)
        wait_for_text(browser, SCRIPT)
        assert browser.execute_script("return window.hacked") is None
        view_as(browser, 1280, "light")
        wait_for(lambda: browser.execute_script(TOOLTIP_GROUND) == LIGHT.ground)
        view_as(browser, 1280, "dark")
        wait_for(lambda: browser.execute_script(TOOLTIP_GROUND) == DARK.ground)
        own = address.removeprefix("http:")
        assert {x for x in asked(browser) if own not in x and not x.startswith("data:")} == set()
    complaints = [x["message"] for x in logged(browser, "browser") if x["level"] == "SEVERE"]
    assert [x for x in complaints if "ERR_CONNECTION_REFUSED" not in x] == []


def test_from_the_tree_to_a_rollup_by_keyboard(
    url: str, db: psycopg.Connection, browser: Chrome
) -> None:
    for n in range(11):
        db.execute(
            "SELECT silver.create_rollup_table('silver.readings_1m', 'silver', %s, '2 hours')",
            [f"other_{n}"],
        )

    def shown() -> list[str]:
        links = browser.find_elements(By.CSS_SELECTOR, ".tree .name")
        return [link.text for link in links if link.is_displayed()]

    with served(url) as address:
        browser.get(address)
        wait_for(lambda: len(shown()) == 13)
        for _ in range(20):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            focused = browser.switch_to.active_element
            ring = [focused.value_of_css_property(x) for x in ("outline-style", "box-shadow")]
            if focused.get_attribute("aria-label") == "Find a rollup":
                focused.send_keys("nowhere")
                wait_for_text(browser, "No rollup is called that.")
                focused.send_keys(Keys.CONTROL + "a")
                focused.send_keys("GOLD other_7")
                wait_for(lambda: shown() == ["silver.readings_1m", "silver.other_7"])
                continue  # its frame is its ring
            assert ring != ["none", "none"], focused.get_attribute("outerHTML")
            if "silver.readings_1m" in focused.text:
                break
        time.sleep(4)  # the monitor is read again meanwhile
        assert len(shown()) == 2
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        wait_for_text(browser, "GROUP BY 1, 2")
        unnamed = browser.execute_script(
            "return [...document.querySelectorAll('button, input, a')].filter(e =>"
            " !(e.innerText || e.ariaLabel || e.labels?.length || e.type === 'hidden'))"
            ".map(e => e.outerHTML)"
        )
        assert unnamed == []


def test_the_token_is_typed(url: str, browser: Chrome) -> None:
    def type_token(token: str, sign: str) -> None:
        wait_for(lambda: browser.switch_to.active_element.get_attribute("name") == "token")
        ActionChains(browser).send_keys(token, Keys.ENTER).perform()
        wait_for_text(browser, sign)

    port = free_port()
    with served(url, "--token", "0123456789abcdef", port=port) as link:
        browser.get(link.partition("login")[0])
        type_token("x" * 16, "That is not the token")
        type_token("0123456789abcdef", "raw.readings")
    wait_for(lambda: not browser.find_element(By.CSS_SELECTOR, ".live").is_displayed())
    with served(url, "--token", "another0123456789", port=port):
        type_token("another0123456789", "raw.readings")


def test_a_page_that_was_opened_too_early_comes(
    server: PostgresServer, database: str, url: str, browser: Chrome
) -> None:
    def open_database(yes: bool) -> None:
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS {yes}')

    for page, sign in ((PAGE, "GROUP BY 1, 2"), ("create", "Preview")):
        with served(url) as address:
            open_database(False)
            browser.get(address + page)
            wait_for_text(browser, "not currently accepting connections")
            open_database(True)
            wait_for_text(browser, sign)


def test_nothing_is_cut_off(url: str, db: psycopg.Connection, browser: Chrome) -> None:
    long = "long_" * 11
    db.execute(f"CREATE TABLE raw.{long} (ts timestamptz NOT NULL, name text, n int)")
    db.execute(f"INSERT INTO raw.{long} VALUES (now(), repeat('a long name ', 9), 1)")
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', dimensions => '{name}')",
        [long, long],
    )
    wide = "return document.documentElement.scrollWidth"  # a phone's innerWidth grows with it
    long_page = f"rollup?name=silver.{long}"
    signs = {"": "raw.readings", PAGE: "GROUP BY 1, 2", "create": "Preview", long_page: "GROUP BY"}
    ground = "return getComputedStyle(document.body).backgroundColor"
    with served(url, "--write") as address:
        for width, scheme in itertools.product((1280, 390), ("light", "dark")):
            view_as(browser, width, scheme)
            for page, sign in signs.items():
                browser.get(address + page)
                wait_for_text(browser, sign)
                if "?" in page:
                    (name, *_) = wait_for(lambda: series(browser))
                    point_at_chart(browser)
                    wait_for_text(browser, name.strip())
                assert browser.execute_script(CUT_OFF, width) == []
                assert browser.execute_script(wide) <= width
                red = int(browser.execute_script(ground)[4:].split(",")[0])
                assert (red < 80) == (scheme == "dark")


def refresh(browser: Chrome) -> None:
    button(browser, "Refresh a range").click()
    wait_for(lambda: button(browser, "Cancel"))
    dialog = browser.find_element(By.CSS_SELECTOR, ".dialog")
    wait_for(lambda: "From" in dialog.text)
    button(browser, "Refresh").click()


def slow_down(db: psycopg.Connection, seconds: int) -> None:
    """Each run of a rollup that writes takes that long, or twice."""
    db.execute(
        "SET ROLE tsrollup_owner; CREATE FUNCTION rollup_engine.slow() RETURNS trigger"
        f" LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END';"
        "CREATE TRIGGER slow BEFORE INSERT ON silver.refresh_log"
        " FOR EACH STATEMENT EXECUTE FUNCTION rollup_engine.slow(); RESET ROLE"
    )


def test_buttons_act_with_the_rights_of_the_connection(
    url: str, db: psycopg.Connection, browser: Chrome
) -> None:
    view_as(browser, 1280, "light")
    health = (
        "SELECT status FROM silver.rollup_config"
        " WHERE target_table = 'silver.readings_1m'::regclass"
    )
    with served(url, "--write") as address:
        browser.get(address + PAGE)
        wait_for(lambda: button(browser, "Pause")).send_keys(Keys.ENTER)
        wait_for(lambda: "paused" in text_of(browser))
        wait_for(lambda: button(browser, "Resume"))
        assert browser.switch_to.active_element.text == "Resume"
        assert "it was paused" in browser.find_element(By.CSS_SELECTOR, ".facts + .alarm").text
        assert db.execute(health).fetchone() == ("paused",)
        button(browser, "Resume").click()
        wait_for(lambda: button(browser, "Pause"))
        assert db.execute(health).fetchone() == ("active",)

        before = db.execute("SELECT count(*) FROM silver.refresh_log").fetchone()
        wait_for(lambda: series(browser))
        refresh(browser)
        wait_for(lambda: "rows written in" in text_of(browser))
        assert db.execute("SELECT count(*) FROM silver.refresh_log").fetchone() != before

        # What asked is gone before the answer comes.
        slow_down(db, 1)
        view_as(browser, 390, "light")
        again = button(browser, "Refresh a range")
        browser.execute_script("arguments[0].scrollIntoView({block: 'end'})", again)
        refresh(browser)
        wait_for(lambda: not browser.find_elements(By.CSS_SELECTOR, ".dialog"))
        outcome = browser.find_element(By.CSS_SELECTOR, ".outcome")
        wait_for(lambda: "rows written in" in outcome.text)
        wait_for(lambda: outcome.rect["y"] + outcome.rect["height"] <= bottom_of(browser))
        db.execute(
            "SET ROLE tsrollup_owner; DROP FUNCTION rollup_engine.slow() CASCADE; RESET ROLE"
        )

        db.execute(
            "SELECT silver.drop_rollup(target_table::text) FROM silver.rollup_config"
            " WHERE depth = 1"
        )
        db.execute("SELECT silver.drop_rollup('silver.readings_1m')")
        view_as(browser, 390, "light")
        pause = button(browser, "Pause")
        browser.execute_script("arguments[0].scrollIntoView({block: 'end'})", pause)
        pause.click()
        refused = wait_for(lambda: browser.find_element(By.CSS_SELECTOR, ".outcome .failure"))
        assert "there is no rollup 'silver.readings_1m'" in refused.text
        assert "Next step" in refused.text
        wait_for(lambda: refused.rect["y"] + refused.rect["height"] <= bottom_of(browser))


def test_an_end_waits_for_no_refresh(url: str, db: psycopg.Connection, browser: Chrome) -> None:
    slow_down(db, 60)
    at_work = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    with running(url, "--write") as (process, address):
        browser.get(address + PAGE)
        wait_for(lambda: button(browser, "Refresh a range"))
        refresh(browser)
        wait_for(lambda: db.execute(at_work).fetchone() == (1,))
        process.terminate()
        assert process.wait(20) == 0
    wait_for(lambda: db.execute(at_work).fetchone() == (0,))


def test_a_rollup_is_previewed_and_created(
    url: str, db: psycopg.Connection, browser: Chrome
) -> None:
    view_as(browser, 1280, "light")
    count = "SELECT count(*) FROM silver.rollup_config"
    with served(url, "--write") as address:
        browser.get(address + "create")
        choose(browser, "Reads", "raw.readings")
        wait_for(lambda: "temp (double precision)" in text_of(browser))
        button(browser, "Preview").click()
        wait_for(lambda: "it has no answer to: a name" in text_of(browser))
        field(browser, "Name of its table").send_keys("readings_15m")
        field(browser, "Width of a bucket").send_keys(Keys.CONTROL + "a")
        field(browser, "Width of a bucket").send_keys("15 minutes")
        choose(browser, "Dimensions", "device")
        button(browser, "Preview").click()
        wait_for(lambda: "Columns of gold.readings_15m" in text_of(browser))
        assert "nothing has changed" in text_of(browser)
        assert "bucket, device, row_count, temp_count" in text_of(browser)
        assert db.execute(count).fetchone() == (2,)
        button(browser, "Create").click()
        wait_for(lambda: "Created silver.readings_15m" in text_of(browser))
        assert db.execute(
            "SELECT bucket_width = '15 minutes', dimensions::text[] FROM silver.rollup_config"
            " WHERE target_table = 'silver.readings_15m'::regclass"
        ).fetchone() == (True, ["device"])
        browser.find_element(By.LINK_TEXT, "silver.readings_15m").click()
        wait_for(lambda: series(browser))
    with served(url) as address:
        browser.get(address + "create")
        choose(browser, "Reads", "silver.readings_1m")
        field(browser, "Name of its table").send_keys("readings_1h")
        button(browser, "Preview").click()
        wait_for_text(browser, "SELECT silver.create_rollup_table(")
        assert not [x for x in browser.find_elements(By.TAG_NAME, "button") if x.text == "Create"]
        assert db.execute(count).fetchone() == (3,)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = new_pool_folder()
    yield parent / "data"
    embedded.stop(parent / "data")
    shutil.rmtree(parent)


def test_pages_come_back_after_either_server_was_killed(data_dir: Path, browser: Chrome) -> None:
    view_as(browser, 1280, "light")
    url = embedded.start(data_dir).url
    migrate_project(url)
    with psycopg.connect(url, autocommit=True) as connection:
        fill(connection)
    port = free_port()
    with running(url, port=port) as (process, address):
        browser.get(address + PAGE)
        wait_for(lambda: series(browser))
        postmaster = embedded.status(data_dir).pid
        assert postmaster
        os.kill(postmaster, signal.SIGKILL)
        wait_for(lambda: "not current" in text_of(browser))
        assert "silver.readings_1m" in text_of(browser), "what was known is kept"
        assert embedded.start(data_dir).url == url
        wait_for(lambda: "not current" not in text_of(browser))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO raw.readings VALUES (now(), 'd1', 1e6)")
        wait_for(lambda: max(y or 0 for _, y in series(browser)["d1"]) > 1000)
        process.kill()
        process.wait()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO raw.readings VALUES (now(), 'd1', 1e9)")
        with served(url, port=port):
            wait_for(lambda: max(y or 0 for _, y in series(browser)["d1"]) > 1e6, 60)

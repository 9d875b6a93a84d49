"""The dashboard without a browser: what its pages hold, whom it answers, what it asks for."""

import asyncio
import importlib.util
import re
import secrets
import time
from contextlib import closing
from importlib.machinery import ModuleSpec
from importlib.resources import files
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from command_line import tsrollup_here
from dashboards import HOSTILE, SCRIPT, fill, get, served
from servers import PostgresServer
from tsrollup.dashboard import queries, series
from tsrollup.dashboard.database import APPLICATION, Database, Reader
from tsrollup.dashboard.markup import Html, table, tag
from tsrollup.errors import TsrollupError

pytestmark = pytest.mark.spread

PAGE = "/rollup?name=silver.readings_1m"
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
PASSWORD = "not-for-any-page"


def open_socket(address: str, **headers: str) -> int:
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Version": "13"}
    return get(address, SOCKET, Upgrade="websocket", Connection="Upgrade", **key, **headers).code


@pytest.fixture
def url(server: PostgresServer, database: str, db: psycopg.Connection) -> str:
    fill(db)
    return server.url(database)


def test_pages_tell_of_every_rollup_and_of_no_password(url: str) -> None:
    user, at, place = url.partition("@")
    with served(f"{user.split(':')[0]}:{user.split(':')[1]}:{PASSWORD}{at}{place}") as address:
        overview = get(address).text
        assert "raw.readings" in overview
        assert "silver.readings_1m" in overview
        assert "gold.readings_1m" in overview
        shown = get(address, PAGE).text
        for text in ("GROUP BY 1, 2", "readings_1m_p", "1 min", "only reads", "temp_avg"):
            assert text in shown
        hostile = get(
            address, f"/rollup?name={quote(f'silver.{sql.Identifier(HOSTILE).as_string()}')}"
        )
        nowhere = get(address, f"/rollup?name={quote(SCRIPT)}")
        assert "no such rollup" in nowhere.text
        assert "no such page" in get(address, "/no/page").text
        for page in (overview, shown, hostile.text, nowhere.text, get(address, "/create").text):
            assert PASSWORD not in page
            assert "<img src=x" not in page
            # Nothing from elsewhere, not even by mistake: names of XML are no addresses.
            outside = set(re.findall(r"""https?://[^\s"'\\<)]+""", page))
            assert {x for x in outside if not x.startswith("http://www.w3.org/")} == set()


def test_pages_say_what_a_browser_may_do_with_them(url: str) -> None:
    with served(url) as address:
        headers = get(address).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["server"] is None


def test_other_names_and_pages_of_other_sites_are_refused(url: str) -> None:
    with served(url) as address:
        own = address.rstrip("/")
        for name in ("127.0.0.1.evil.example", "[::1", "me@evil.example"):
            assert get(address, Host=name).code == 421
        assert get(address, Origin="http://evil.example").code == 403
        assert get(address, Origin="null").code == 403
        assert get(address, Origin=own).code == 200
        assert open_socket(address, Origin=own) == 101
        assert open_socket(address, Origin="http://evil.example") == 403


def test_other_addresses_ask_for_a_token(url: str) -> None:
    with served(url, "--host", "0.0.0.0") as address:
        token = address.partition("token=")[2]
        assert len(token) == 32
        for path in ("/", PAGE, "/create", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
            refused = get(address, path)
            assert (refused.code, refused.headers["location"]) == (303, "/login")
            assert "silver" not in refused.text
        assert open_socket(address) == 403

        wrong = get(address, "/login", "POST", "token=wrong")
        assert (wrong.code, wrong.headers["set-cookie"]) == (401, None)
        assert get(address, "/login", "POST", "token=" + "x" * 9999).code == 413
        for answer in (
            get(address, f"/login?token={token}"),
            get(address, "/login", "POST", f"token={token}"),
        ):
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=lax" in cookie
            assert token not in cookie
            value = cookie.partition(";")[0]
            assert get(address, Cookie=value).code == 200
            assert get(address, Cookie=f"{value}0").code == 303
            assert open_socket(address, Cookie=value) == 101
            assert token not in get(address, Cookie=value).text


def test_a_token_of_ones_own_is_asked_for_at_home_as_well(url: str) -> None:
    token = secrets.token_hex(20)
    with served(url, "--token", token) as address:
        assert get(address).code == 303
        assert get(address, f"/login?token={token}").code == 303
    short = tsrollup_here("dashboard", "--token", "short", url=url)
    assert (short.code, short.err.count("\n")) == (1, 1)
    assert "16 letters and digits" in short.err


def test_without_its_extra_it_says_what_to_install(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "nicegui" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    refused = tsrollup_here("dashboard", url=url)
    assert (refused.code, refused.err) == (
        1,
        "error: the dashboard is not installed; run pip install 'tsrollup[dashboard]'\n",
    )


def test_a_taken_port_is_one_line(url: str) -> None:
    with served(url) as address:
        port = address.rstrip("/").rpartition(":")[2]
        refused = tsrollup_here("dashboard", "--port", port, url=url)
    assert (refused.code, refused.out) == (1, "")
    assert "choose another with --port" in refused.err


def test_however_many_pages_ask_the_server_is_asked_through_two_connections(
    url: str, db: psycopg.Connection
) -> None:
    with served(url) as address:
        for _ in range(3):
            assert get(address).code == 200
            assert get(address, PAGE).code == 200
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
        (used,) = db.execute(count, [APPLICATION, db.info.dbname]).fetchone() or (0,)
        assert 1 <= used <= 2


def test_the_monitor_is_read_once_for_all_pages(url: str) -> None:
    async def ask() -> set[float]:
        with closing(Database(url, may_write=False)) as shared:
            found = await asyncio.gather(*(shared.snapshot() for _ in range(20)))
        assert all(one.error is None and len(one.rollups) == 2 for one in found)
        return {one.read_at for one in found}

    assert len(asyncio.run(ask())) == 1


def test_who_may_only_read_gold_sees_health_and_charts(
    server: PostgresServer, database: str, db: psycopg.Connection
) -> None:
    fill(db)
    role = f"viewer_{secrets.token_hex(4)}"
    superuser = psycopg.connect(server.superuser_url(database), autocommit=True)
    try:
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        superuser.execute(sql.SQL("GRANT tsrollup_reader TO {}").format(sql.Identifier(role)))
        as_role = server.url(database, role)
        with closing(Reader(as_role, 10)) as reader:
            known = {one.name: one for one in reader.ask(queries.rollups)}
            view = reader.ask(lambda c: series.view(c, "gold.readings_1m"))
            assert view
            points = reader.ask(
                lambda c: series.points(
                    c, "silver.readings_1m", view, "temp_avg", 0, time.time(), {}
                )
            )
        assert known["silver.readings_1m"].view == "gold.readings_1m"
        assert points.series
        assert not points.stale_is_known
        with served(as_role, "--write") as address:
            shown = get(address, PAGE)
            assert shown.code == 200
            assert shown.text.count("For members of tsrollup_operator: permission denied") == 4
        with pytest.raises(TsrollupError, match="permission denied"):
            asyncio.run(
                Database(as_role, may_write=True).act(
                    lambda c: c.execute("SELECT silver.pause_rollup('silver.readings_1m')")
                )
            )
    finally:
        superuser.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        superuser.close()


def test_without_the_database_pages_say_so(url: str) -> None:
    away = re.sub(r":\d+/", ":1/", url)
    snapshot = asyncio.run(Database(away, may_write=False).snapshot())
    assert not snapshot.is_known
    assert snapshot.error
    assert "cannot connect" in snapshot.error.message


def test_what_was_not_made_as_html_is_text() -> None:
    assert tag("p", SCRIPT, title=SCRIPT).count("<") == 2
    assert tag("p", tag("b", "x"), class_=None, hidden=False) == "<p><b>x</b></p>"
    assert "<img" not in table((SCRIPT,), [(SCRIPT,)])
    assert isinstance(table(("a",), []), Html)


def test_the_urls_own_place_is_shown_without_user_and_password() -> None:
    shown = Database(f"postgresql://me:{PASSWORD}@db.example:5433/metrics", False).place
    assert shown == "metrics on db.example:5433"


def test_colours_can_be_told_from_what_they_stand_on() -> None:
    css = (files("tsrollup.dashboard") / "assets" / "style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r"^(?::root|body\.body--dark) \{(.*?)^\}", css, re.M | re.S)
    )
    pairs = [(x, f"{x}-ground") for x in ("accent", "ok", "warn", "bad", "idle")]
    pairs += [(x, y) for x in ("text", "quiet", "accent") for y in ("ground", "card")]
    pairs += [("text", "code"), ("card", "accent")]
    for scheme in (light, dark):
        found = {(x, y): contrast(scheme[x], scheme[y]) for x, y in pairs}
        assert {pair: value for pair, value in found.items() if value < 4.5} == {}


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(x * y for x, y in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)

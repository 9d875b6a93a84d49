"""Dashboards for the tests: a served one, data whose names are hostile, and a browser."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path

import psycopg
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from command_line import start_tsrollup

CHROMIUM = Path("/usr/bin/chromium")
CHROMEDRIVER = Path("/usr/bin/chromedriver")
SCRIPT = '<img src=x onerror="window.hacked=1">`${window.hacked=1}`</script>'
HOSTILE = f'r "1m" {SCRIPT[:20]}'
READY = re.compile(r"open (http://\S+)")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@contextmanager
def served(url: str, *options: str, port: int | None = None) -> Iterator[str]:
    """The address that a dashboard says to open, while it is served."""
    with running(url, *options, port=port) as (_, address):
        yield address


@contextmanager
def running(
    url: str, *options: str, port: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start_tsrollup("dashboard", "--port", str(port or free_port()), *options, url=url)
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = READY.match(line)
        assert found, line + process.stdout.read()
        address = found[1].replace("localhost", "127.0.0.1")
        wait_until_answered(address)
        yield process, address
    finally:
        process.terminate()
        try:
            said, _ = process.communicate(timeout=20)
            assert "has been deleted" not in (said or ""), said  # of a page that is still looked at
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_answered(address: str) -> None:
    host, port = address.split("/")[2].split(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers at {address}"
            time.sleep(0.05)
        else:
            return


@dataclass(frozen=True)
class Answer:
    code: int
    headers: Message
    text: str


def get(
    address: str, path: str = "/", method: str = "GET", body: str = "", **headers: str
) -> Answer:
    """A plain request; nothing is followed. A header's name has _ for -."""
    connection = HTTPConnection(address.split("/")[2], timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body or None, named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())
    finally:
        connection.close()


def fill(connection: psycopg.Connection) -> None:
    """Three hours of a raw table with a hostile device, and rollups of it, one with a hostile name;
    the last minutes are stale."""
    connection.execute("CREATE TABLE raw.readings (ts timestamptz, device text, temp float8)")
    connection.execute(
        "INSERT INTO raw.readings SELECT t, d, 20 + extract(minute FROM t)"
        " FROM generate_series(now() - interval '3 hours', now(), '20 s') AS t,"
        " unnest(ARRAY['d1', %s, NULL]) AS d",
        [SCRIPT],
    )
    for source, name, width in (
        ("raw.readings", "readings_1m", "1 minute"),
        ("silver.readings_1m", HOSTILE, "1 hour"),
    ):
        connection.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval,"
            " dimensions => %s, metrics => %s)",
            [
                source,
                name,
                width,
                *(
                    (["device"], '{"temp": ["avg", "max"]}')
                    if source == "raw.readings"
                    else (None, None)
                ),
            ],
        )
    connection.execute("CALL silver.run_rollups()")
    connection.execute("INSERT INTO raw.readings VALUES (now() - interval '1 hour', 'd1', 99)")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """A Chromium without a window; CI insists on it."""
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        if os.environ.get("TSROLLUP_REQUIRE_CHROMIUM"):
            pytest.fail("TSROLLUP_REQUIRE_CHROMIUM is set, and Chromium is not installed")
        pytest.skip("Chromium is not installed (apt-get install chromium chromium-driver)")
    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(CHROMEDRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def view_as(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

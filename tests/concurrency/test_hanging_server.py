"""A server that hangs: who waits for it, and who does not."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import psycopg
import pytest

import tsrollup
from servers import PostgresServer


def test_a_cancelled_task_stops_no_other_while_the_server_hangs(
    private_server: tuple[PostgresServer, str],
) -> None:
    server, database = private_server
    (file,) = Path(server.data_dir or "").rglob("postmaster.pid")
    postmaster = int(file.read_text().split()[0])
    goes_on = threading.Timer(10, os.kill, [postmaster, signal.SIGCONT])

    async def work() -> None:
        db = await tsrollup.connect_async(server.url(database))
        slow = asyncio.create_task(
            db.in_thread(lambda: db.database.connection.execute("SELECT pg_sleep(60)"))
        )
        await asyncio.sleep(0.5)
        os.kill(postmaster, signal.SIGSTOP)
        goes_on.start()
        slow.cancel()
        await asyncio.sleep(1)
        assert goes_on.is_alive()
        os.kill(postmaster, signal.SIGCONT)
        with pytest.raises((asyncio.CancelledError, psycopg.errors.QueryCanceled)):
            await slow
        await db.close()

    try:
        asyncio.run(asyncio.wait_for(work(), 60))
    finally:
        goes_on.cancel()
        os.kill(postmaster, signal.SIGCONT)

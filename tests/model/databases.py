"""Databases made ahead by a thread, since cloning one takes as long as a story."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import psycopg

T = TypeVar("T")


class Databases:
    def __init__(self, make: Callable[[], str], drop: Callable[[str], None]) -> None:
        self._make = make
        self._drop = drop
        self._ready: queue.Queue[str | Exception] = queue.Queue(maxsize=3)
        self._used: queue.Queue[str] = queue.Queue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def take(self) -> str:
        name = self._ready.get(timeout=60)
        if isinstance(name, Exception):
            raise name
        return name

    def drop(self, name: str) -> None:
        self._used.put(name)

    def close(self) -> None:
        self._ended.set()
        self._thread.join(60)
        while not self._ready.empty():
            name = self._ready.get()
            if isinstance(name, str):
                self._drop(name)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._drop_used()
            if self._ready.full():
                self._ended.wait(0.02)
                continue
            try:
                self._ready.put(_patiently(self._make))
            except Exception as error:
                self._ready.put(error)
                return
        self._drop_used()

    def _drop_used(self) -> None:
        while not self._used.empty():
            _patiently(partial(self._drop, self._used.get()))


def _patiently(act: Callable[[], T]) -> T:
    """A story may have made the server crash, which is back soon."""
    until = time.monotonic() + 30
    while True:
        try:
            return act()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)

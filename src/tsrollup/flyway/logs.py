"""Progress and warnings on the console, for as long as a command runs."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno == logging.INFO else f"{record.levelname}: {text}"


class _OncePerLocation(logging.Filter):
    """A command walks the locations several times, for migrations and for callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        repeated = record.name.endswith(".locations") and text in self.told
        self.told.add(text)
        return not repeated


@contextmanager
def logged_to_console(
    *, quiet: bool = False, debug: bool = False, progress_to: TextIO | None = None
) -> Iterator[None]:
    """Progress on standard output, warnings on standard error, for the time of one command."""
    logger = logging.getLogger("tsrollup.flyway")
    progress = logging.StreamHandler(progress_to or sys.stdout)
    progress.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings = logging.StreamHandler(sys.stderr)
    warnings.setLevel(logging.WARNING)
    warnings.addFilter(_OncePerLocation())
    level, propagate = logger.level, logger.propagate
    for handler in (progress, warnings):
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(progress)
        logger.removeHandler(warnings)
        logger.setLevel(level)
        logger.propagate = propagate

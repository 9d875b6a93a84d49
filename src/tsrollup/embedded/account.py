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
YES = ("1", "true", "yes", "on")

log = logging.getLogger(__name__)


def open_alone(path: Path, flags: int) -> int:
    """Open a folder, or a file that no other name leads to; never a link, nor what waits."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    known = os.fstat(handle)
    if stat.S_ISDIR(known.st_mode) or (stat.S_ISREG(known.st_mode) and known.st_nlink <= 1):
        return handle
    os.close(handle)
    raise TsrollupError(f"{path} is no file of its own", "remove it, or give another --data-dir")


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int
    dropped: bool
    """Whether root gives up its rights for it."""

    def own(self, path: Path) -> None:
        """Give it a file or folder, never what a link in that place points to."""
        handle = open_alone(path, os.O_RDONLY)
        try:
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            if self.dropped:
                os.fchown(handle, self.uid, self.gid)
            os.fchmod(handle, stat.S_IRWXU if is_folder else stat.S_IRUSR | stat.S_IWUSR)
        finally:
            os.close(handle)

    def pass_through(self, folder: Path) -> None:
        """Let it pass a folder that stays the caller's, so that it can put no link there."""
        handle = open_alone(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if self.dropped:
                _require_own(folder, os.fstat(handle))
                os.fchown(handle, os.geteuid(), self.gid)
            os.fchmod(handle, stat.S_IRWXU | (stat.S_IXGRP if self.dropped else 0))
        finally:
            os.close(handle)

    def subprocess_arguments(self) -> dict[str, Any]:
        if not self.dropped:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def _require_own(folder: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise TsrollupError(f"{folder} is somebody else's", "give a new folder as --data-dir")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TsrollupError(f"others may write into {folder}", "give a new folder as --data-dir")


def account_for(pgdata: Path) -> Account:
    """Who owns the data stays its owner, so that an account made later changes nothing."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), dropped=False)
    if pgdata.is_dir() and (owner := pgdata.lstat()).st_uid != 0:
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


def require_passage(account: Account, path: Path) -> None:
    """The account must be able to pass (not list) the folders above the path, where root drops
    its rights. TSROLLUP_OPEN_FOLDERS has what is closed opened."""
    if not account.dropped:
        return
    closed = [folder for folder in path.parents if not _may_pass(account, folder.stat())]
    if closed and os.environ.get("TSROLLUP_OPEN_FOLDERS", "").lower() not in YES:
        raise TsrollupError(
            f"account {pwd.getpwuid(account.uid).pw_name}, which runs the server, cannot pass"
            f" {closed[0]}",
            f"run chmod o+x {' '.join(map(str, closed))}, or set TSROLLUP_OPEN_FOLDERS=1,"
            " which does that",
        )
    for folder in closed:
        log.warning("chmod o+x %s, so that the server's account can pass it", folder)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)


def _may_pass(account: Account, folder: os.stat_result) -> bool:
    if folder.st_uid == account.uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid == account.gid:
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)

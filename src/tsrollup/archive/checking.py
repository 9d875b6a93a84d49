"""All files against the log, and the log's folders against it."""

from collections.abc import Iterator
from dataclasses import dataclass

from tsrollup.archive import log
from tsrollup.archive.log import Archived, Connection
from tsrollup.archive.moving import Watch
from tsrollup.archive.restoring import DATA_CORRUPTED, check_file
from tsrollup.archive.storage import ASIDE, PART, store_at
from tsrollup.errors import NotFoundError, TsrollupError

BROKEN = ("missing", "changed", "unreachable")
REPLACED = "a later file holds what it held; when that one is ok, it may be removed"
LEFT = "an attempt left it; it may be removed where no other database archives to this place"


@dataclass(frozen=True)
class Checked:
    """A file. `status`: ok, missing, changed, unreachable; replaced (a later file holds what it
    held); leftover (of an attempt that came to nothing), unknown (not in the log)."""

    source_table: str | None
    partition_name: str | None
    status: str
    location: str
    file: str
    reason: str | None = None


def check(
    connection: Connection,
    table: str | None = None,
    location: str | None = None,
    watch: Watch | None = None,
) -> Iterator[Checked]:
    """What became of each file, and which others lie in their folders."""
    found = log.archived(connection, log.source_named(connection, table))
    recorded = {archived.file for archived in found}
    known = recorded | log.begun(connection)
    for archived in found:
        yield _check(archived, location or archived.location)
        if watch:
            watch.rows(1)
    folders = {(location or one.location, one.file.partition("/")[0]) for one in found}
    for place, folder in sorted(folders):
        yield from _strays(place, folder, recorded, known)


def _check(archived: Archived, location: str) -> Checked:
    status, reason = "ok", None
    try:
        check_file(store_at(location), archived)
    except TsrollupError as error:
        reason = str(error)
        if isinstance(error, NotFoundError):
            status = "missing"
        else:
            status = "changed" if error.code == DATA_CORRUPTED else "unreachable"
    if archived.state == "replaced":
        status, reason = "replaced", REPLACED
    return Checked(
        archived.source_table, archived.partition_name, status, location, archived.file, reason
    )


def _strays(location: str, folder: str, recorded: set[str], known: set[str]) -> Iterator[Checked]:
    try:
        files = store_at(location).files(folder)
    except TsrollupError:
        return  # which was told of each of its files
    for file in files:
        plain = file.removesuffix(ASIDE).removesuffix(PART)
        if plain.endswith(".parquet") and (plain != file or file not in known):
            if plain != file and plain in known and not file.endswith(ASIDE):
                continue  # it is being written
            status, reason = "unknown", "it is not in the log of this database"
            if plain != file:
                status, reason = "leftover", LEFT
            if plain in recorded:
                reason = f"it is recorded as {plain}: give it that name back if that is missing"
            yield Checked(None, None, status, location, file, reason)

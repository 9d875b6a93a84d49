"""What state each migration is in: applied rows held against local scripts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.history import BASELINES, SYNTHETIC, Applied
from tsrollup.flyway.migrations import Migration
from tsrollup.flyway.names import EMPTY, Version


class State(Enum):
    """Flyway's states: (shown as, is applied, is failed)."""

    PENDING = ("Pending", False, False)
    ABOVE_TARGET = ("Above Target", False, False)
    BELOW_BASELINE = ("Below Baseline", False, False)
    BASELINE_IGNORED = ("Ignored (Baseline)", False, False)
    BASELINE = ("Baseline", True, False)
    IGNORED = ("Ignored", False, False)
    MISSING_SUCCESS = ("Missing", True, False)
    MISSING_FAILED = ("Failed (Missing)", True, True)
    SUCCESS = ("Success", True, False)
    FAILED = ("Failed", True, True)
    OUT_OF_ORDER = ("Out of Order", True, False)
    FUTURE_SUCCESS = ("Future", True, False)
    FUTURE_FAILED = ("Failed (Future)", True, True)
    OUTDATED = ("Outdated", True, False)
    SUPERSEDED = ("Superseded", True, False)
    DELETED = ("Deleted", True, False)

    @property
    def shown(self) -> str:
        return str(self.value[0])

    @property
    def is_applied(self) -> bool:
        return bool(self.value[1])

    @property
    def is_failed(self) -> bool:
        return bool(self.value[2])


@dataclass(frozen=True)
class MigrationInfo:
    """A migration with its state; `applied` is its history row, `resolved` its script."""

    state: State
    applied: Applied | None
    resolved: Migration | None

    @property
    def version(self) -> Version | None:
        return self.applied.version if self.applied else self._resolved.version

    @property
    def description(self) -> str:
        return self.applied.description if self.applied else self._resolved.description

    @property
    def type(self) -> str:
        return self.applied.type if self.applied else self._resolved.type

    @property
    def script(self) -> str:
        return self.applied.script if self.applied else self._resolved.script.name

    @property
    def checksum(self) -> int | None:
        return self.applied.checksum if self.applied else self._resolved.checksum

    @property
    def rank(self) -> int | None:
        return self.applied.rank if self.applied else None

    @property
    def _resolved(self) -> Migration:
        assert self.resolved is not None
        return self.resolved


class _Context:
    """What deciding one state needs to know of all the others."""

    def __init__(
        self,
        migrations: Iterable[Migration],
        rows: Sequence[Applied],
        target: str | None,
        out_of_order: bool,
    ) -> None:
        self.out_of_order = out_of_order
        self.versioned = {(m.version, m.type): m for m in migrations if m.version}
        self.repeatable = {m.description: m for m in migrations if m.version is None}
        versions = [m.version for m in self.versioned.values() if m.version]
        self.last_resolved = max(versions, default=None)
        self.deleted = _deleted_ranks(rows)
        self.late: set[int] = set()
        self.last_applied: Version | None = None
        baselines = []
        for row in rows:
            if row.version is None or row.type == "DELETE":
                continue
            if row.type in BASELINES:
                baselines.append(row.version)
            if self.last_applied is None or row.version > self.last_applied:
                if row.rank not in self.deleted:
                    self.last_applied = row.version
            else:
                self.late.add(row.rank)
        self.applied_baseline = max(baselines, default=None)
        self.pending_baseline = self._pending_baseline()
        self.latest_runs = self._latest_runs(rows)
        self.target = self._target(target, rows)

    def _pending_baseline(self) -> Version | None:
        if self.last_applied is not None:
            return None
        kinds = [m.version for m in self.versioned.values() if m.type in BASELINES and m.version]
        return max(kinds, default=None)

    def _latest_runs(self, rows: Sequence[Applied]) -> dict[str, int]:
        latest: dict[str, int] = {}
        for row in rows:
            if row.version is None and not (row.type == "DELETE" and row.rank in self.deleted):
                latest[row.description] = max(row.rank, latest.get(row.description, row.rank))
        return latest

    def _target(self, target: str | None, rows: Sequence[Applied]) -> Version | None:
        name = "latest" if target is None else target.lower()
        if name in ("latest", "next"):
            return None
        if name == "current":
            return self.last_applied or EMPTY
        version = Version.parse(name.removesuffix("?"))
        known = {row.version for row in rows} | {version for version, _ in self.versioned}
        if version not in known and not name.endswith("?"):
            raise FlywayError(
                f"no migration has the target version {version}",
                hint="give the version of an existing migration, or add ? behind it",
            )
        return version

    def state_of_pending(self, migration: Migration) -> State:
        version = migration.version
        if version is None:
            return State.PENDING
        baseline = self.applied_baseline if self.last_applied else self.pending_baseline
        if baseline is not None and version < baseline:
            return State.BELOW_BASELINE
        may_start = migration.type in BASELINES and self.pending_baseline is not None
        if version == baseline and not may_start:
            return State.BASELINE_IGNORED
        if migration.type in BASELINES and not may_start:
            return State.IGNORED
        above = self.target is not None and version > self.target
        if above and migration.type not in BASELINES:
            return State.ABOVE_TARGET
        if self.last_applied and version < self.last_applied and not self.out_of_order:
            return State.IGNORED
        return State.PENDING

    def state_of_applied(self, row: Applied, migration: Migration | None) -> State:
        if row.rank in self.deleted:
            return State.DELETED
        if row.type == "DELETE":
            return State.SUCCESS
        if row.type == "BASELINE" or (row.type in BASELINES and migration is not None):
            return State.BASELINE
        is_latest = row.version is not None or self.latest_runs[row.description] == row.rank
        if migration is None and is_latest:
            return self._state_without_script(row)
        if not row.success:
            return State.FAILED
        if row.type == "SCHEMA":
            return State.SUCCESS
        if row.version is None:
            if not is_latest:
                return State.SUPERSEDED
            current = migration is not None and migration.matches(row.checksum)
            return State.SUCCESS if current else State.OUTDATED
        return State.OUT_OF_ORDER if row.rank in self.late else State.SUCCESS

    def _state_without_script(self, row: Applied) -> State:
        if row.type == "SCHEMA":
            return State.SUCCESS
        is_past = row.version is None or (
            self.last_resolved is not None and row.version < self.last_resolved
        )
        if is_past:
            return State.MISSING_SUCCESS if row.success else State.MISSING_FAILED
        return State.FUTURE_SUCCESS if row.success else State.FUTURE_FAILED


def _deleted_ranks(rows: Sequence[Applied]) -> set[int]:
    """The ranks that DELETE rows speak of: the newest earlier row of the same migration."""
    deleted: set[int] = set()
    for index, row in enumerate(rows):
        if row.type != "DELETE" or not row.success:
            continue
        for earlier in reversed(rows[:index]):
            same = (
                earlier.version == row.version
                if row.version
                else earlier.version is None and earlier.description == row.description
            )
            if same and not earlier.is_synthetic:
                deleted.add(earlier.rank)
                break
    return deleted


def examine(
    configuration: Configuration,
    migrations: Iterable[Migration],
    rows: Sequence[Applied],
    *,
    target: str | None = None,
    out_of_order: bool | None = None,
) -> list[MigrationInfo]:
    """Every migration, applied or local, with its state, in Flyway's order."""
    context = _Context(
        list(migrations),
        rows,
        configuration.target if target is None else target,
        configuration.out_of_order if out_of_order is None else out_of_order,
    )
    infos = [
        _applied_info(context, row) for row in rows if not (row.type == "DELETE" and row.version)
    ]
    done = {id(info.resolved) for info in infos if _is_done(context, info)}
    for migration in [*context.versioned.values(), *context.repeatable.values()]:
        if id(migration) not in done:
            infos.append(MigrationInfo(context.state_of_pending(migration), None, migration))
    return _stop_at_next(configuration, target, sorted(infos, key=_order))


def _applied_info(context: _Context, row: Applied) -> MigrationInfo:
    if row.version is None:
        migration = context.repeatable.get(row.description)
    else:
        migration = context.versioned.get((row.version, row.type))
    return MigrationInfo(context.state_of_applied(row, migration), row, migration)


def _is_done(context: _Context, info: MigrationInfo) -> bool:
    """Whether the script of an applied row needs no second line as pending."""
    row, migration = info.applied, info.resolved
    assert row is not None
    if migration is None or row.type == "DELETE" or info.state == State.DELETED:
        return False
    if row.version is not None:
        return True
    return context.latest_runs[row.description] == row.rank and migration.matches(row.checksum)


def _stop_at_next(
    configuration: Configuration, target: str | None, infos: list[MigrationInfo]
) -> list[MigrationInfo]:
    if (target or configuration.target or "").lower() != "next":
        return infos
    pending = [info for info in infos if info.state == State.PENDING]
    if not pending or pending[0].version is None:
        return infos
    border = pending[0].version
    return [
        MigrationInfo(State.ABOVE_TARGET, None, info.resolved)
        if info.state == State.PENDING and info.version and info.version > border
        else info
        for info in infos
    ]


def _order(info: MigrationInfo) -> tuple[object, ...]:
    """Passed-over scripts, applied rows by rank, the others by version, repeatables last."""
    if info.applied:
        return (1, info.applied.rank)
    place = 0 if info.state in (State.BELOW_BASELINE, State.BASELINE_IGNORED) else 2
    if info.version is None:
        return (3, info.description)
    return (place, info.version, info.type)


def current(infos: Sequence[MigrationInfo]) -> MigrationInfo | None:
    """The applied migration of the highest version, else the latest repeatable one."""
    standing = [
        info
        for info in infos
        if info.state.is_applied and info.state != State.DELETED and info.type != "DELETE"
    ]
    best: MigrationInfo | None = None
    for info in standing:
        if info.version and (best is None or best.version is None or info.version > best.version):
            best = info
    return best or next((info for info in reversed(standing) if info.version is None), None)


def category(info: MigrationInfo) -> str:
    """Versioned, Repeatable or Baseline; nothing for the rows that a runner wrote by itself."""
    if info.type in SYNTHETIC:
        return ""
    if info.version is None:
        return "Repeatable"
    return "Baseline" if info.type in BASELINES else "Versioned"

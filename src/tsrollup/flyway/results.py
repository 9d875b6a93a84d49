"""What the commands return, or raise half-way."""

from dataclasses import dataclass, field

from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.states import MigrationInfo


@dataclass(frozen=True)
class AppliedScript:
    category: str
    version: str
    description: str
    type: str
    filepath: str
    execution_time: int


@dataclass
class MigrateResult:
    """What `migrate` did."""

    database: str = ""
    schema_name: str = ""
    initial_schema_version: str | None = None
    target_schema_version: str | None = None
    migrations: list[AppliedScript] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def migrations_executed(self) -> int:
        return len(self.migrations)


class MigrateError(FlywayError):
    """A migration script failed; `result` is what was done before it."""

    code = "FAILED_VERSIONED_MIGRATION"
    result: MigrateResult | None = None


@dataclass(frozen=True)
class InfoResult:
    """What `info` found: all migrations in order, and the version that the database has."""

    database: str
    schema_name: str
    schema_version: str | None
    all_schemas_empty: bool
    migrations: list[MigrationInfo]


@dataclass(frozen=True)
class RepairedMigration:
    version: str
    description: str
    filepath: str


@dataclass
class RepairResult:
    """What `repair` did to the history."""

    database: str
    removed: list[RepairedMigration] = field(default_factory=list)
    deleted: list[RepairedMigration] = field(default_factory=list)
    aligned: list[RepairedMigration] = field(default_factory=list)

    @property
    def actions(self) -> list[str]:
        done = {
            "Removed failed migrations": self.removed,
            "Marked missing migrations as deleted": self.deleted,
            "Aligned applied migration checksums": self.aligned,
        }
        return [action for action, migrations in done.items() if migrations]


@dataclass(frozen=True)
class BaselineResult:
    """`written` is False when the very same baseline was there already."""

    database: str
    schema_name: str
    baseline_version: str
    written: bool


@dataclass
class CleanResult:
    """The schemas that `clean` emptied, and those that it dropped altogether."""

    database: str
    cleaned: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ValidateResult:
    """How many migrations `validate` found in order."""

    database: str
    count: int

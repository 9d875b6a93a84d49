"""What the commands return; the field names in camel case are those of the JSON output."""

from dataclasses import dataclass, field

from .states import MigrationInfo


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


@dataclass(frozen=True)
class InfoResult:
    """What `info` found: all migrations in order, and the version that the database has."""

    database: str
    schema_name: str
    schema_version: str | None
    all_schemas_empty: bool
    migrations: list[MigrationInfo]

"""What the commands print: Flyway's table, and its JSON."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.results import (
    BaselineResult,
    CleanResult,
    InfoResult,
    MigrateResult,
    RepairResult,
)
from tsrollup.flyway.states import MigrationInfo, category
from tsrollup.flyway.tables import ascii_table
from tsrollup.flyway.validate import MismatchError

# The release whose JSON this is.
FLYWAY_VERSION = "11.8.2"
_EMPTY = "<< Empty Schema >>"

Json = dict[str, Any]


def info_text(result: InfoResult) -> str:
    """The version of the schema and the table of migrations."""
    headers = ("Category", "Version", "Description", "Type", "Installed On", "State", "Undoable")
    rows = [
        (
            category(info),
            str(info.version or ""),
            info.description,
            info.type,
            f"{info.applied.installed_on:%Y-%m-%d %H:%M:%S}" if info.applied else "",
            info.state.shown,
            _undoable(info),
        )
        for info in result.migrations
        if not (info.type == "DELETE" and info.version)
    ]
    table = ascii_table(headers, rows, "No migrations found")
    return f"Schema version: {result.schema_version or _EMPTY}\n\n{table}\n"


def _undoable(info: MigrationInfo) -> str:
    return "No" if info.version else ""


def _common(operation: str, database: str, warnings: Sequence[str] = ()) -> Json:
    return {
        "flywayVersion": FLYWAY_VERSION,
        "database": database,
        "warnings": list(warnings),
        "operation": operation,
    }


def _timed(operation: str) -> Json:
    return {
        "timestamp": datetime.now().isoformat(),
        "operation": operation,
        "exception": None,
        "licenseFailed": False,
    }


def info_json(result: InfoResult, configuration: Configuration) -> Json:
    return {
        **_timed("info"),
        "schemaVersion": result.schema_version,
        "schemaName": ", ".join(configuration.schemas),
        "migrations": [_info_item(info) for info in result.migrations],
        "flywayVersion": FLYWAY_VERSION,
        "database": result.database,
        "allSchemasEmpty": result.all_schemas_empty,
    }


def _info_item(info: MigrationInfo) -> Json:
    applied = info.applied
    installed_on = ""
    if applied:
        installed_on = applied.installed_on.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "category": category(info),
        "version": str(info.version or ""),
        "rawVersion": str(info.version or ""),
        "description": info.description,
        "type": info.type,
        "installedOnUTC": installed_on,
        "state": info.state.shown,
        "undoable": _undoable(info),
        "filepath": _path(info),
        "undoFilepath": "",
        "installedBy": applied.installed_by if applied else "",
        "shouldExecuteExpression": None,
        "executionTime": applied.execution_time if applied else 0,
    }


def _path(info: MigrationInfo) -> str:
    return str(info.resolved.script.file.resolve()) if info.resolved else ""


def migrate_json(
    result: MigrateResult, configuration: Configuration, error: FlywayError | None = None
) -> Json:
    document = {
        **_timed("migrate"),
        "exception": error.message if error else None,
        "initialSchemaVersion": result.initial_schema_version,
        "targetSchemaVersion": None if error else result.target_schema_version,
        "schemaName": ", ".join(configuration.schemas),
        "migrations": [
            {
                "category": item.category,
                "version": item.version,
                "description": item.description,
                "type": item.type,
                "filepath": item.filepath,
                "executionTime": item.execution_time,
            }
            for item in result.migrations
        ],
        "migrationsExecuted": result.migrations_executed,
        "success": error is None,
        "flywayVersion": FLYWAY_VERSION,
        "database": result.database,
        "warnings": result.warnings,
        "databaseType": "PostgreSQL",
    }
    if error:
        document |= error_json(error)
    document["totalMigrationTime"] = sum(item.execution_time for item in result.migrations)
    return document


def validate_json(database: str, count: int = 0, failed: MismatchError | None = None) -> Json:
    problems = failed.problems if failed else []
    messages = "\n".join(problem.message for problem in problems)
    message = failed.message.partition("\n")[0] if failed else ""
    details = {"errorCode": failed and failed.code, "errorMessage": message}
    return {
        **_common("validate", database),
        "errorDetails": details if failed else None,
        "invalidMigrations": [
            {
                "version": str(problem.info.version or ""),
                "description": problem.info.description,
                "filepath": _path(problem.info),
                "errorDetails": {"errorCode": problem.code, "errorMessage": problem.message},
            }
            for problem in problems
        ],
        "validationSuccessful": failed is None,
        "validateCount": count,
        "allErrorMessages": messages,
    }


def repair_json(result: RepairResult) -> Json:
    return {
        **_common("repair", result.database),
        "repairActions": result.actions,
        "migrationsRemoved": [vars(item) for item in result.removed],
        "migrationsDeleted": [vars(item) for item in result.deleted],
        "migrationsAligned": [vars(item) for item in result.aligned],
    }


def baseline_json(result: BaselineResult) -> Json:
    return {
        **_common("baseline", result.database),
        "successfullyBaselined": True,
        "baselineVersion": result.baseline_version,
    }


def clean_json(result: CleanResult) -> Json:
    return {
        **_common("clean", result.database),
        "schemasCleaned": result.cleaned,
        "schemasDropped": result.dropped,
    }


def error_json(error: FlywayError) -> Json:
    message = f"{error.message}\n{error.hint}" if error.hint else error.message
    return {
        "error": {
            "errorCode": error.code,
            "sqlState": None,
            "sqlErrorCode": None,
            "message": message,
            "stackTrace": None,
            "lineNumber": None,
            "path": None,
            "cause": None,
        }
    }

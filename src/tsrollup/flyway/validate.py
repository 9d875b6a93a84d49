"""validate: do the applied migrations and the local ones agree?"""

import logging
from dataclasses import dataclass

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import ConfigurationError, ValidateError
from tsrollup.flyway.history import BASELINES, SYNTHETIC, shorten_description
from tsrollup.flyway.names import Version
from tsrollup.flyway.results import ValidateResult
from tsrollup.flyway.session import Session, open_session
from tsrollup.flyway.states import MigrationInfo, State

log = logging.getLogger(__name__)

_STATES = {
    "missing": {State.MISSING_SUCCESS, State.MISSING_FAILED},
    "future": {State.FUTURE_SUCCESS, State.FUTURE_FAILED},
    "pending": {State.PENDING, State.OUTDATED},
    "ignored": {State.IGNORED},
}


@dataclass(frozen=True)
class Problem:
    """A migration that does not validate; `code` is Flyway's."""

    code: str
    message: str
    info: MigrationInfo


def is_ignored(configuration: Configuration, info: MigrationInfo) -> bool:
    """Whether an ignore pattern speaks of this migration."""
    return any(
        _matches(pattern, info.version is not None, info.state)
        for pattern in configuration.ignore_migration_patterns
    )


def ignores_all(configuration: Configuration, state: State) -> bool:
    """Whether the ignore patterns speak of every migration in `state`, of either kind."""
    patterns = configuration.ignore_migration_patterns
    return all(
        any(_matches(pattern, versioned, state) for pattern in patterns)
        for versioned in (True, False)
    )


def _matches(pattern: str, versioned: bool, actual: State) -> bool:
    """Whether `<kind>:<state>` (both may be *) speaks of a migration of this kind and state."""
    kind, colon, state = pattern.lower().partition(":")
    if not colon or kind not in ("*", "versioned", "repeatable") or state not in ("*", *_STATES):
        raise ConfigurationError(
            f"{pattern!r} is not an ignore pattern",
            hint="write (*|versioned|repeatable):(*|missing|pending|ignored|future)",
        )
    if kind != "*" and (kind == "versioned") != versioned:
        return False
    return state == "*" or actual in _STATES[state]


def validate(configuration: Configuration) -> ValidateResult:
    """Raise ValidateError unless applied and local migrations agree."""
    with open_session(configuration) as session:
        count = validate_session(session, configuration)
        log.info("Validated %d migrations", count)
        return ValidateResult(session.database.name, count)


def validate_session(session: Session, configuration: Configuration) -> int:
    if not session.database.schema_exists(session.default_schema):
        if session.migrations and not ignores_all(configuration, State.PENDING):
            raise MissingSchemaError(session.default_schema, session.database.name)
        return 0
    with session.events("Validate"):
        infos = session.infos()
        baselines = [info.version for info in infos if info.state == State.BASELINE]
        baseline = max((version for version in baselines if version), default=None)
        problems = [p for info in infos if (p := _check(configuration, info, baseline)) is not None]
        if problems:
            raise MismatchError(problems, session.database.name)
        return len(infos)


class MismatchError(ValidateError):
    """Migrations failed validation."""

    def __init__(self, problems: list[Problem], database: str) -> None:
        self.problems = problems
        self.database = database
        lines = "\n".join(problem.message for problem in problems)
        super().__init__(f"Validate failed: Migrations have failed validation\n{lines}")


class MissingSchemaError(MismatchError):
    """There is nothing to validate the migrations against."""

    def __init__(self, schema: str, database: str) -> None:
        self.problems = []
        self.database = database
        ValidateError.__init__(
            self, f"Schema {schema} doesn't exist yet", "run migrate", code="SCHEMA_DOES_NOT_EXIST"
        )


def _check(
    configuration: Configuration, info: MigrationInfo, baseline: Version | None
) -> Problem | None:
    passed_over = (State.ABOVE_TARGET, State.DELETED, State.SUPERSEDED)
    if info.state in passed_over or info.type == "DELETE":
        return None
    if is_ignored(configuration, info):
        return None
    problem = _check_state(info)
    below = info.version is not None and baseline is not None and info.version <= baseline
    if problem is None and info.applied and info.resolved and not below:
        # With pending ones ignored, Flyway holds repeatables to the checksum of the replaced text.
        strict = info.version is not None or ignores_all(configuration, State.PENDING)
        problem = _check_contents(info, strict)
    return None if problem is None else Problem(problem[0], problem[1], info)


def _label(info: MigrationInfo) -> str:
    return f"version {info.version} ({info.description})" if info.version else info.description


def _check_state(info: MigrationInfo) -> tuple[str, str] | None:
    kind = "versioned" if info.version else "repeatable"
    if info.state.is_failed:
        return (
            f"FAILED_{kind.upper()}_MIGRATION",
            f"Failed {kind} migration: {_label(info)}\n"
            "Undo what it left behind, then run repair to remove it from the history.",
        )
    if info.resolved is None and info.type not in SYNTHETIC:
        return (
            f"APPLIED_{kind.upper()}_MIGRATION_NOT_RESOLVED",
            f"Applied {kind} migration without a local script: {_label(info)}\n"
            "If it was removed on purpose, run repair to mark it as deleted.",
        )
    if info.state == State.IGNORED and info.type in BASELINES:
        return None
    if info.state in (State.PENDING, State.IGNORED):
        remedy = (
            "Run migrate, or set -ignoreMigrationPatterns='*:pending'."
            if info.state == State.PENDING
            else "Set -outOfOrder=true to run it, or -ignoreMigrationPatterns='*:ignored'."
        )
        return (
            f"RESOLVED_{kind.upper()}_MIGRATION_NOT_APPLIED",
            f"Local {kind} migration that was not applied: {_label(info)}\n{remedy}",
        )
    if info.state == State.OUTDATED:
        return (
            "OUTDATED_REPEATABLE_MIGRATION",
            f"Repeatable migration changed since it ran: {info.description}\n"
            "Run migrate to apply it.",
        )
    return None


def _check_contents(info: MigrationInfo, strict: bool) -> tuple[str, str] | None:
    applied, resolved = info.applied, info.resolved
    assert applied is not None
    assert resolved is not None
    if applied.type in SYNTHETIC:
        return None
    label = f"version {applied.version}" if applied.version else applied.script
    mismatches: list[tuple[str, object, object]] = []
    if applied.type != resolved.type:
        mismatches.append(("type", applied.type, resolved.type))
    unequal = applied.checksum not in (None, resolved.checksum)
    if strict and info.state != State.OUTDATED and unequal:
        mismatches.append(("checksum", applied.checksum, resolved.checksum))
    if applied.description != shorten_description(resolved.description):
        mismatches.append(("description", applied.description, resolved.description))
    for what, stored, local in mismatches:
        return (
            f"{what.upper()}_MISMATCH",
            f"Migration {what} mismatch for migration {label}\n"
            f"-> Applied to database : {stored}\n"
            f"-> Resolved locally    : {local}\n"
            "Take back the change to the script, or run repair to accept it.",
        )
    return None

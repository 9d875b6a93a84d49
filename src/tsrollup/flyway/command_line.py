"""`flyway`, word for word: [options] command..., exit code 0 or 1."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tsrollup.errors import TsrollupError
from tsrollup.flyway import output
from tsrollup.flyway.baseline import baseline
from tsrollup.flyway.clean import clean
from tsrollup.flyway.configuration import Configuration, Value
from tsrollup.flyway.errors import ConfigurationError, FlywayError
from tsrollup.flyway.info import info
from tsrollup.flyway.logs import logged_to_console
from tsrollup.flyway.migrate import migrate
from tsrollup.flyway.repair import repair
from tsrollup.flyway.results import MigrateError, MigrateResult
from tsrollup.flyway.sources import load_configuration
from tsrollup.flyway.validate import MismatchError, validate

log = logging.getLogger(__name__)

LICENSE_EXIT = 35
_PAID_COMMANDS = ("undo", "check", "snapshot", "diff", "prepare", "deploy", "generate", "model")
_FLAGS = {"-X", "-q", "-n", "-skipCheckForUpdate", "-color"}
_HELP_FLAGS = {"-?", "-h", "--help", "help"}
_VERSION_FLAGS = {"-v", "--version", "version"}

USAGE = """\
Usage: flyway [-key=value | -flag]... command...

Commands: migrate, info, validate, repair, baseline, clean; several run one after the other.

Every parameter of open-source Flyway on PostgreSQL can be given as -key=value, for example
-url=jdbc:postgresql://localhost:5432/timeseries -user=me -locations=filesystem:sql
-placeholders.name=value. Parameters also come from -configFiles=a.conf,b.conf (or .toml) and
from FLYWAY_* environment variables; arguments win over variables, and variables over files.

Flags: -X debug output, -q errors and warnings only, -outputType=json, -v version, -? this help
"""


@dataclass
class Arguments:
    """What the words of a command line say."""

    commands: list[str] = field(default_factory=list)
    parameters: dict[str, Value] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)

    @property
    def json(self) -> bool:
        return str(self.parameters.get("outputType", "")).lower() == "json"


def parse(words: Sequence[str]) -> Arguments:
    arguments = Arguments()
    for word in words:
        if word in _HELP_FLAGS or word in _VERSION_FLAGS or word in _FLAGS:
            arguments.flags.add(word)
        elif word.startswith("-") and "=" in word:
            key, _, value = word[1:].partition("=")
            if key in arguments.parameters:
                raise ConfigurationError(f"-{key} is given twice", hint="give it once")
            arguments.parameters[key] = value
        elif word in _COMMANDS or word in _PAID_COMMANDS:
            arguments.commands.append(word)
        else:
            raise FlywayError(
                f"Invalid flag: {word}", hint="parameters are written -key=value; see flyway -?"
            )
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run a Flyway command line; 0 when all of it worked, else 1."""
    as_json = any(word.lower() == "-outputtype=json" for word in argv)
    with logged_to_console(quiet="-q" in argv or as_json, debug="-X" in argv):
        try:
            return _run(parse(argv))
        except TsrollupError as error:
            wrapped = (
                error if isinstance(error, FlywayError) else FlywayError(error.message, error.hint)
            )
            _report(wrapped, as_json)
            return 1


def _report(error: FlywayError, as_json: bool) -> None:
    if as_json:
        _print_json(output.error_json(error))
        return
    print(f"ERROR: {error.message}", file=sys.stderr)
    if error.hint:
        print(error.hint, file=sys.stderr)


def _run(arguments: Arguments) -> int:
    if arguments.flags & _VERSION_FLAGS and not arguments.commands:
        print(f"tsrollup's migration runner, compatible with Flyway {output.FLYWAY_VERSION}")
        return 0
    if arguments.flags & _HELP_FLAGS or not arguments.commands:
        print(USAGE)
        return 0
    parameters = dict(arguments.parameters)
    output_type = str(parameters.pop("outputType", "json"))
    if output_type.lower() != "json":
        raise ConfigurationError(
            f"{output_type!r} is not an output type", hint="write -outputType=json, or leave it out"
        )
    for command in arguments.commands:
        if command in _PAID_COMMANDS:
            error = FlywayError(
                f"{command} belongs to a paid edition of Flyway and is not available here",
                "write a new migration that takes the change back",
            )
            _report(error, arguments.json)
            return LICENSE_EXIT
    configuration = load_configuration(arguments=parameters)
    documents = []
    for command in arguments.commands:
        document, failed = _COMMANDS[command](configuration, arguments.json)
        if failed:
            # Commands after it must not run, and it alone is told of.
            _print_json(document)
            return failed
        documents.append(document)
    if arguments.json:
        several = len(documents) > 1
        _print_json({"individualResults": documents} if several else documents[0])
    return 0


def _print_json(document: output.Json) -> None:
    print(json.dumps(document, indent=2, default=str))


# Each command: (its JSON document, its exit code).
_Command = Callable[[Configuration, bool], tuple[output.Json, int]]


def _migrate(configuration: Configuration, as_json: bool) -> tuple[output.Json, int]:
    try:
        return output.migrate_json(migrate(configuration), configuration), 0
    except MigrateError as error:
        if not as_json:
            raise
        result = error.result or MigrateResult()
        return output.migrate_json(result, configuration, error), 1


def _info(configuration: Configuration, as_json: bool) -> tuple[output.Json, int]:
    result = info(configuration)
    if not as_json:
        log.info("%s", output.info_text(result))
    return output.info_json(result, configuration), 0


def _validate(configuration: Configuration, as_json: bool) -> tuple[output.Json, int]:
    try:
        result = validate(configuration)
    except MismatchError as error:
        if not as_json:
            raise
        # Flyway's exit code is 0 here: the document tells.
        return output.validate_json(error.database, failed=error), 0
    return output.validate_json(result.database, result.count), 0


def _repair(configuration: Configuration, as_json: bool) -> tuple[output.Json, int]:  # noqa: ARG001
    return output.repair_json(repair(configuration)), 0


def _baseline(configuration: Configuration, as_json: bool) -> tuple[output.Json, int]:  # noqa: ARG001
    return output.baseline_json(baseline(configuration)), 0


def _clean(configuration: Configuration, as_json: bool) -> tuple[output.Json, int]:  # noqa: ARG001
    return output.clean_json(clean(configuration)), 0


_COMMANDS: dict[str, _Command] = {
    "migrate": _migrate,
    "info": _info,
    "validate": _validate,
    "repair": _repair,
    "baseline": _baseline,
    "clean": _clean,
}

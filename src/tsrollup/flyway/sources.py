"""Where parameters come from, and which source wins: files, then environment, then arguments."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsrollup.flyway.conf_files import (
    merge_toml,
    parse_conf,
    parse_toml,
    read_text,
    toml_parameters,
)
from tsrollup.flyway.configuration import (
    KEYS,
    WITHOUT_EFFECT,
    Configuration,
    Value,
    configuration_from,
    split_list,
)
from tsrollup.flyway.errors import ConfigurationError

_CONF_NAMES = ("flyway.conf",)
_TOML_NAMES = ("flyway.toml", "flyway.user.toml")


def environment_name(key: str) -> str:
    """The environment variable of a parameter: FLYWAY_ and its words in upper snake case."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).replace(".", "_")
    return "FLYWAY_" + words.upper()


# Flyway takes the environment from files and arguments, the working directory from arguments only.
_BY_VARIABLE = {
    environment_name(key): key
    for key in [*KEYS, *WITHOUT_EFFECT]
    if key not in ("environment", "workingDirectory")
}


def from_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    """The parameters that FLYWAY_* variables set; names that Flyway does not know are ignored."""
    parameters: dict[str, Value] = {}
    for variable, value in environ.items():
        if variable in _BY_VARIABLE:
            parameters[_BY_VARIABLE[variable]] = value
        elif variable.startswith("FLYWAY_PLACEHOLDERS_"):
            name = variable.removeprefix("FLYWAY_PLACEHOLDERS_").lower()
            parameters[f"placeholders.{name}"] = value
    return parameters


def load_configuration(
    config_files: Sequence[str | Path] = (),
    arguments: Mapping[str, Value] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Configuration:
    """The configuration of default files, `config_files`, environment and `arguments`, in order."""
    given = dict(arguments or {})
    encoding = str(
        given.pop("configFileEncoding", environ.get("FLYWAY_CONFIG_FILE_ENCODING", "UTF-8"))
    )
    named = [Path(name) for name in split_list(environ.get("FLYWAY_CONFIG_FILES", ""))]
    named += [Path(name) for name in split_list(given.pop("configFiles", ""))]
    named += [Path(name) for name in config_files]
    directory = Path(str(given.get("workingDirectory", ".")))
    environment = str(given["environment"]) if "environment" in given else None
    environments = _take_environments(given)
    parameters = _from_files(named, directory, encoding, environ, environment, environments)
    if "workingDirectory" in parameters:
        raise ConfigurationError(
            "flyway.workingDirectory cannot stand in a configuration file",
            hint="give it as an argument: -workingDirectory=...",
        )
    parameters |= from_environment(environ)
    parameters |= given
    return configuration_from(parameters)


def _take_environments(given: dict[str, Value]) -> dict[str, dict[str, Value]]:
    """What `-environments.NAME.key=value` arguments say, taken out of the others."""
    environments: dict[str, dict[str, Value]] = {}
    for key in [key for key in given if key.startswith("environments.")]:
        _, name, *rest = key.split(".")
        environments.setdefault(name, {})[".".join(rest)] = given.pop(key)
    return environments


def _from_files(
    named: Sequence[Path],
    directory: Path,
    encoding: str,
    environ: Mapping[str, str],
    environment: str | None,
    environments: Mapping[str, Any],
) -> dict[str, Value]:
    named = [directory / path for path in named]
    is_toml = [path.suffix.lower() == ".toml" for path in named]
    if any(is_toml) and not all(is_toml):
        raise ConfigurationError(
            "-configFiles names TOML and .conf files together", hint="give one kind only"
        )
    default_toml = _defaults(directory, _TOML_NAMES)
    if any(is_toml) or (not named and (default_toml or environments)):
        document: dict[str, Any] = {}
        for path in [*default_toml, *named]:
            merge_toml(document, parse_toml(read_text(path, encoding), path))
        merge_toml(document, {"environments": environments})
        return toml_parameters(document, environment, environ)
    parameters: dict[str, Value] = {}
    for path in [*_defaults(directory, _CONF_NAMES), *named]:
        parameters |= parse_conf(read_text(path, encoding), environ)
    return parameters


def _defaults(directory: Path, names: Sequence[str]) -> list[Path]:
    """The files that are read without being named: the home directory's, then the local ones."""
    folders = dict.fromkeys(path.resolve() for path in (Path.home(), Path(), directory))
    return [folder / name for folder in folders for name in names if (folder / name).is_file()]

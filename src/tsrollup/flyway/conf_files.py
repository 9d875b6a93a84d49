"""Reading Flyway's configuration files: .conf in its dialect of Java properties, and TOML."""

import codecs
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsrollup.flyway.configuration import Value
from tsrollup.flyway.errors import ConfigurationError

_ENVIRONMENT_VARIABLE = re.compile(r"\$\{([A-Za-z0-9_]+)\}")
_RESOLVER = re.compile(r"\$\{env\.([^}]+)\}")
_ASSIGNMENT = re.compile(r"flyway\.[^=]*=")
_KEY_VALUE = re.compile(r"([^=:\s]*)\s*[=:]?\s*(.*)", re.DOTALL)

_MARKS = (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE)

# Parameters that TOML keeps in [environments.NAME].
ENVIRONMENT_KEYS = frozenset(
    "url user password schemas initSql connectRetries connectRetriesInterval driver".split()
)


def decode(content: bytes, encoding: str, errors: str = "strict") -> str:
    """Text of `content`; as Java has it, UTF-16 and UTF-32 are big-endian unless a mark tells."""
    name = codecs.lookup(encoding).name
    if name in ("utf-16", "utf-32") and not content.startswith(_MARKS):
        name += "-be"
    return content.decode(name, errors)


def read_text(path: Path, encoding: str = "UTF-8") -> str:
    try:
        # As Flyway does: a stray byte in a comment must not stop it.
        return decode(path.read_bytes(), encoding, "replace")
    except OSError as error:
        raise ConfigurationError(
            f"cannot read configuration file {path}: {error.strerror}",
            hint="check the path given with -configFiles; "
            "it starts at the current directory (or -workingDirectory)",
        ) from None
    except (UnicodeError, LookupError):
        raise ConfigurationError(
            f"configuration file {path} is not valid {encoding}", hint="set -configFileEncoding"
        ) from None


def parse_conf(text: str, environ: Mapping[str, str] = os.environ) -> dict[str, Value]:
    """The parameters of a .conf file, without the `flyway.` in front."""
    text = _ENVIRONMENT_VARIABLE.sub(lambda match: environ.get(match[1], ""), text)
    parameters: dict[str, Value] = {}
    for line in _logical_lines(text):
        match = _KEY_VALUE.fullmatch(line)
        assert match is not None
        key, value = match.groups()
        if key.startswith("flyway."):
            parameters[key.removeprefix("flyway.")] = value
    return parameters


def _logical_lines(text: str) -> list[str]:
    """Lines without comments, joined where one ends in a backslash.

    Backslashes are literal but for that one, and it too unless the next line can go on from it.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))]
    logical: list[str] = []
    continued = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not continued and (not line or line[0] in "#!"):
            continue
        goes_on = line.endswith("\\") and bool(following) and not _ASSIGNMENT.match(following)
        body = line[:-1] if goes_on else line
        if continued:
            logical[-1] += body
        else:
            logical.append(body)
        continued = goes_on
    return logical


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None


def merge_toml(base: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; any other value of `other` replaces that of `base`."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge_toml(base[key], value)
        else:
            base[key] = value
    return base


def toml_parameters(
    document: Mapping[str, Any], environment: str | None, environ: Mapping[str, str] = os.environ
) -> dict[str, Value]:
    """The parameters of a merged TOML document, those of the chosen environment included."""
    parameters = _flatten(document.get("flyway", {}))
    chosen = environment or str(parameters.get("environment", "default"))
    environments = document.get("environments", {})
    if chosen in environments:
        own = dict(environments[chosen])
        settings = _flatten(own.pop("flyway", {}))
        known = {key: _resolved(own[key], environ) for key in ENVIRONMENT_KEYS & own.keys()}
        parameters = {**_flatten(known), **parameters, **settings}
    elif chosen != "default":
        names = ", ".join(sorted(environments)) or "none"
        raise ConfigurationError(
            f"environment {chosen} is not in the TOML configuration",
            hint=f"add [environments.{chosen}]; there is: {names}",
        )
    parameters["environment"] = chosen
    return parameters


def _resolved(value: object, environ: Mapping[str, str]) -> object:
    """${env.NAME} is an environment variable in what describes an environment."""
    if isinstance(value, list):
        return [_resolved(item, environ) for item in value]
    if not isinstance(value, str):
        return value
    return _RESOLVER.sub(lambda match: environ.get(match[1], match[0]), value)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[prefix + key] = [_scalar(item) for item in value]
        else:
            flat[prefix + key] = _scalar(value)
    return flat


def _scalar(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

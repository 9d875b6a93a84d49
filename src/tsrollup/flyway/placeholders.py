"""Replacing ${name} in scripts."""

from collections.abc import Mapping

from .errors import FlywayError


def replace(text: str, values: Mapping[str, str], prefix: str, suffix: str) -> str:
    """`text` with every placeholder replaced; names are matched without regard to case."""
    known = {name.lower(): value for name, value in values.items()}
    parts: list[str] = []
    position = 0
    while (start := text.find(prefix, position)) >= 0:
        end = text.find(suffix, start + len(prefix))
        if end < 0:
            break
        name = text[start + len(prefix) : end]
        if name.lower() not in known:
            shown = prefix + name + suffix
            line = text.count("\n", 0, start) + 1
            raise FlywayError(
                f"no value for placeholder {shown} (line {line})",
                hint=f"set -placeholders.{name}=..., or write it in the configuration file; "
                "placeholders are replaced in comments and COPY data too",
            )
        parts += [text[position:start], known[name.lower()]]
        position = end + len(suffix)
    parts.append(text[position:])
    return "".join(parts)

"""Replacing ${name} in scripts."""

from collections.abc import Mapping

from tsrollup.flyway.errors import FlywayError


def replace(text: str, values: Mapping[str, str], prefix: str, suffix: str) -> str:
    """`text` with every placeholder replaced; names are matched without regard to case."""
    known = {name.lower(): value for name, value in values.items()}
    parts: list[str] = []
    position = 0
    while (start := text.find(prefix[0], position)) >= 0:
        width = _matched(text, start, prefix)
        if width < len(prefix):
            # Flyway does not look again at the character that spoiled a prefix: $${x} has none.
            skipped = start + width + 1
            parts.append(text[position:skipped])
            position = skipped
            continue
        end = text.find(suffix, start + len(prefix))
        if end < 0:
            end = len(text) - len(suffix)
        name = text[start + len(prefix) : end]
        if name.lower() not in known:
            raise _unknown(name, prefix + name + suffix, text.count("\n", 0, start) + 1)
        parts += [text[position:start], known[name.lower()]]
        position = end + len(suffix)
    parts.append(text[position:])
    return "".join(parts)


def _matched(text: str, start: int, prefix: str) -> int:
    """How many characters of `prefix` stand at `start`."""
    for count, character in enumerate(prefix):
        if text[start + count : start + count + 1] != character:
            return count
    return len(prefix)


def _unknown(name: str, shown: str, line: int) -> FlywayError:
    return FlywayError(
        f"no value for placeholder {shown} (line {line})",
        hint=f"set -placeholders.{name}=..., or write it in the configuration file; "
        "placeholders are replaced in comments and COPY data too",
    )

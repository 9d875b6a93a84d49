"""Versions, and what the name of a migration file says."""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from tsrollup.flyway.errors import FlywayError

Kind = Literal["versioned", "baseline", "repeatable", "callback"]


@total_ordering
@dataclass(frozen=True, eq=False)
class Version:
    """A dotted version; `text` is how it is shown, `parts` is how it compares."""

    text: str
    parts: tuple[int, ...]

    @classmethod
    def parse(cls, raw: str) -> "Version":
        text = raw.replace("_", ".")
        pieces = re.split(r"\.(?=[0-9])", text)
        # Flyway lets a sign pass.
        if not all(re.fullmatch(r"[+-]?[0-9]+", piece) for piece in pieces):
            raise FlywayError(f"{raw!r} is not a version: only digits and dots may stand in one")
        parts = [int(piece) for piece in pieces]
        while len(parts) > 1 and parts[-1] == 0:
            parts.pop()
        return cls(text, tuple(parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.parts == other.parts

    def __lt__(self, other: "Version") -> bool:
        return self.parts < other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __str__(self) -> str:
        return self.text


# Below every version.
EMPTY = Version("<< Empty Schema >>", ())


@dataclass(frozen=True)
class Name:
    """A parsed file name; `problem` says why the file is not what its prefix promises."""

    prefix: str
    kind: Kind
    version: Version | None
    description: str
    problem: str | None = None


@dataclass(frozen=True)
class Naming:
    """The prefixes, separator and suffixes in force."""

    versioned: str
    repeatable: str
    baseline: str
    separator: str
    suffixes: tuple[str, ...]
    events: tuple[str, ...]

    def prefixes(self) -> list[tuple[str, Kind]]:
        known: list[tuple[str, Kind]] = [
            (self.versioned, "versioned"),
            (self.baseline, "baseline"),
            (self.repeatable, "repeatable"),
        ]
        known += [(event, "callback") for event in self.events]
        return sorted(
            ((prefix, kind) for prefix, kind in known if prefix),
            key=lambda item: len(item[0]),
            reverse=True,
        )

    def parse(self, filename: str) -> Name | None:
        """What `filename` names; None for a file that no prefix claims or of another suffix."""
        stem = self._without_suffix(filename)
        if stem is None:
            return None
        for prefix, kind in self.prefixes():
            if stem.startswith(prefix):
                return self._read(filename, prefix, kind, stem[len(prefix) :])
        return None

    def _without_suffix(self, filename: str) -> str | None:
        for suffix in self.suffixes:
            if filename.lower().endswith(suffix.lower()):
                return filename[: len(filename) - len(suffix)]
        return None

    def _read(self, filename: str, prefix: str, kind: Kind, rest: str) -> Name:
        place = rest.find(self.separator)
        separated = place >= 0
        head = rest[:place] if separated else rest
        tail = rest[place + len(self.separator) :] if separated else ""
        description = tail.replace("_", " ")
        suffix = self.suffixes[0] if self.suffixes else ""
        if kind in ("versioned", "baseline"):
            example = f"{prefix}1.2{self.separator}description{suffix}"
            if not head:
                problem = (
                    f"Invalid {kind} migration name format: {filename} "
                    f"(a version is missing; it should look like {example})"
                )
                return Name(prefix, kind, None, description, problem)
            try:
                return Name(prefix, kind, Version.parse(head), description)
            except FlywayError:
                problem = (
                    f"Invalid {kind} migration name format: {filename} "
                    f"({head!r} is not a version number)"
                )
                return Name(prefix, kind, None, description, problem)
        if kind == "repeatable" and not separated:
            problem = (
                f"Invalid repeatable migration name format: {filename} (a description is missing)"
            )
            return Name(prefix, kind, None, description, problem)
        if head:
            what = "callback" if kind == "callback" else "repeatable migration"
            problem = (
                f"Invalid {what} name format: {filename} (nothing may stand between "
                f"{prefix} and {self.separator}; it should look like "
                f"{prefix}{self.separator}description{suffix})"
            )
            return Name(prefix, kind, None, description, problem)
        return Name(prefix, kind, None, description)

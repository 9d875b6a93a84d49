"""Where scripts are looked for: filesystem locations, with wildcards and sub-folders."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import ConfigurationError, FlywayError

log = logging.getLogger(__name__)

_WILDCARD = re.compile(r"[*?]")


@dataclass(frozen=True)
class Location:
    """A folder (or a pattern of folders) that holds scripts, at any depth."""

    descriptor: str
    path: str

    @classmethod
    def parse(cls, descriptor: str) -> "Location":
        scheme, colon, path = descriptor.partition(":")
        if not colon:
            scheme, path = "classpath", descriptor
        if scheme not in ("filesystem", "classpath"):
            raise ConfigurationError(
                f"location {descriptor} is not supported", hint="use filesystem:<folder>"
            )
        normal = path.strip().replace("\\", "/")
        if scheme == "classpath":
            normal = normal.strip("/")
        normal = normal.rstrip("/") or "/" if normal else "."
        return cls(f"{scheme}:{normal}", str(PurePosixPath(normal)))

    def start(self, configuration: Configuration) -> Path:
        """Where a relative path begins; the class path of Flyway's command line is this folder."""
        return Path() if self.is_classpath else configuration.directory

    @property
    def is_classpath(self) -> bool:
        return self.descriptor.startswith("classpath:")

    @cached_property
    def _fixed(self) -> str:
        """The part of the path in front of the first folder with a wildcard."""
        parts = PurePosixPath(self.path).parts
        fixed = []
        for part in parts:
            if _WILDCARD.search(part):
                break
            fixed.append(part)
        return str(PurePosixPath(*fixed))

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        if not _WILDCARD.search(self.path):
            return None
        if self.path.endswith("**"):
            log.warning("%s names no folder, for nothing follows its **", self.descriptor)
            return re.compile(r"(?!)")
        tokens = {"**/": r"(?:[^/]+/)*", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
        pieces = re.split(r"(\*\*/|\*\*|\*|\?)", self.path)
        return re.compile("".join(tokens.get(piece, re.escape(piece)) for piece in pieces))

    def contains(self, other: "Location") -> bool:
        """Whether every script of `other` is one of ours already."""
        if self._pattern or other._pattern or self.is_classpath != other.is_classpath:
            return self.descriptor == other.descriptor
        return PurePosixPath(other.path).is_relative_to(self.path)

    def scripts(self, directory: Path, suffixes: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """(name relative to the location, file) of every file with one of `suffixes`."""
        root = directory / self._fixed
        wanted = tuple(suffix.lower() for suffix in suffixes)
        for file in _walk(root):
            if not file.name.lower().endswith(wanted):
                continue
            relative = self._relative(file, root)
            if relative is not None:
                yield relative, file

    def _relative(self, file: Path, root: Path) -> str | None:
        inside = file.relative_to(root).as_posix()
        if self._pattern is None:
            return inside
        # The script's name starts below the longest folder that the pattern matches.
        full = inside if self._fixed == "." else f"{self._fixed}/{inside}"
        parts = full.split("/")
        for count in range(len(parts) - 1, 0, -1):
            if self._pattern.fullmatch("/".join(parts[:count])):
                return "/".join(parts[count:])
        return None


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if not entry.name.startswith("."):
                yield from _walk(entry)
        elif entry.is_file():
            yield entry


def parse_locations(descriptors: Iterable[str]) -> list[Location]:
    """The locations, without those that lie inside another one."""
    kept: list[Location] = []
    for location in sorted({Location.parse(d) for d in descriptors}, key=lambda item: item.path):
        outer = next((other for other in kept if other.contains(location)), None)
        if outer is None:
            kept.append(location)
        elif outer.descriptor != location.descriptor:
            log.warning(
                "Discarding location %s, for it lies inside %s",
                location.descriptor,
                outer.descriptor,
            )
    return kept


def find_scripts(
    configuration: Configuration, descriptors: Iterable[str], suffixes: Iterable[str]
) -> list[tuple[str, Path]]:
    """Every file with one of `suffixes`: (name relative to its location, file)."""
    found: dict[Path, str] = {}
    for location in parse_locations(descriptors):
        start = location.start(configuration)
        if not (start / location._fixed).is_dir():
            _report_missing(configuration, location)
            continue
        for relative, file in location.scripts(start, suffixes):
            found.setdefault(file, relative)
    return [(relative, file) for file, relative in found.items()]


def _report_missing(configuration: Configuration, location: Location) -> None:
    if configuration.fail_on_missing_locations:
        raise FlywayError(
            f"location {location.descriptor} does not exist",
            hint="relative locations start at the current directory (or -workingDirectory)",
        )
    hint = "; did you mean filesystem:?" if location.is_classpath else ""
    log.warning("Skipping location %s (not found%s)", location.descriptor, hint)

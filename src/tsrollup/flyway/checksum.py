"""Checksums as Flyway computes them: a CRC32 over the lines, without their terminators."""

import re
import zlib

# str.splitlines() would also split on form feeds and Unicode separators.
_LINE_END = re.compile(r"\r\n|\r|\n")


def checksum(text: str) -> int:
    """CRC32 of the lines of `text` in UTF-8, as a signed 32-bit integer."""
    value = 0
    for line in _LINE_END.split(text.removeprefix("\ufeff")):
        value = zlib.crc32(line.encode("utf-8"), value)
    return value - (1 << 32) if value >= 1 << 31 else value

"""Splitting a script into the statements that PostgreSQL gets, one by one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\r\n]*|/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z))
    | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>"(?:[^"]|"")*(?:"|\Z))
    | (?P<word>[^\W\d][\w$]*)
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<end>;)
    | (?P<number>[\d$][\w$.]*)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_COMMENT = re.compile(r"/\*|\*/")
_COPY_TO_STDOUT = re.compile(r"COPY\b.*\bTO STDOUT\b", re.DOTALL)
_COPY_FROM_STDIN = re.compile(r"COPY\b.*\bFROM STDIN\b", re.DOTALL)
_ROUTINE = re.compile(r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE)\b")
_END_OF_DATA = re.compile(r"^\\\.[ \t]*(?:\r\n|\r|\n|\Z)", re.MULTILINE)
# How many leading words tell what kind of statement it is.
_LEADING = 10

_NON_TRANSACTIONAL = re.compile(
    r"(?:CREATE|DROP) (?:DATABASE|TABLESPACE|SUBSCRIPTION)\b"
    r"|ALTER SYSTEM\b"
    r"|(?:CREATE|DROP) (?:UNIQUE )?INDEX CONCURRENTLY\b"
    r"|REINDEX(?: VERBOSE)? (?:SCHEMA|DATABASE|SYSTEM)\b"
    r"|VACUUM\b"
    r"|DISCARD ALL\b"
)


@dataclass(frozen=True)
class Statement:
    """One statement; `line` is where it starts; `copy_data` are the rows of COPY ... FROM STDIN."""

    text: str
    line: int
    keywords: str
    copy_data: str | None = None

    @property
    def copies_to_client(self) -> bool:
        return _COPY_TO_STDOUT.match(self.keywords) is not None

    @property
    def transactional(self) -> bool:
        return _NON_TRANSACTIONAL.match(self.keywords) is None


def split(script: str) -> Iterator[Statement]:
    """The statements of `script`, without the semicolons that end them."""
    position = 0
    counted, line = 0, 1
    while True:
        start, stop, words = _scan(script, position)
        if start is None:
            return
        line += script.count("\n", counted, start)
        counted = start
        keywords = " ".join(words[:_LEADING])
        text = script[start:stop].rstrip()
        position = stop + 1
        data = None
        if _COPY_FROM_STDIN.match(" ".join(words)):
            data, position = _copy_data(script, position)
        yield Statement(text, line, keywords, data)


def _scan(script: str, position: int) -> tuple[int | None, int, list[str]]:
    """Start, end (its semicolon or the script's end) and top-level words of the next statement."""
    start: int | None = None
    words: list[str] = []
    depth = 0
    atomic = 0
    while (match := _TOKEN.match(script, position)) is not None:
        kind = match.lastgroup
        position = _end_of_token(script, match)
        if kind in ("space", "comment"):
            continue
        if kind == "end" and depth == 0 and atomic == 0:
            if start is not None:
                return start, match.start(), words
            continue
        start = match.start() if start is None else start
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(depth - 1, 0)
        elif kind == "word" and depth == 0:
            words.append(match[0].upper())
            atomic = _atomic_depth(words, atomic)
    return start, len(script), words


def _end_of_token(script: str, match: re.Match[str]) -> int:
    if match[0] == "/*":
        return _skip_block_comment(script, match.end())
    if match.lastgroup == "dollar":
        closing = script.find(match[0], match.end())
        return len(script) if closing < 0 else closing + len(match[0])
    return match.end()


def _skip_block_comment(script: str, position: int) -> int:
    depth = 1
    while depth:
        match = _BLOCK_COMMENT.search(script, position)
        if match is None:
            return len(script)
        depth += 1 if match[0] == "/*" else -1
        position = match.end()
    return position


def _atomic_depth(words: list[str], depth: int) -> int:
    """How many BEGIN ATOMIC and CASE are open after the last of `words`."""
    word = words[-1]
    if depth == 0:
        begins = words[-2:] == ["BEGIN", "ATOMIC"]
        return 1 if begins and _ROUTINE.match(" ".join(words[:4])) else 0
    if word in ("CASE", "BEGIN"):
        return depth + 1
    return depth - 1 if word == "END" else depth


def _copy_data(script: str, position: int) -> tuple[str, int]:
    """The rows after COPY's line, and where the script goes on behind the line `\\.`."""
    newline = re.compile(r"\r\n|\r|\n").search(script, position)
    begin = newline.end() if newline else len(script)
    end = _END_OF_DATA.search(script, begin)
    if end is None:
        return script[begin:], len(script)
    return script[begin : end.start()], end.end()

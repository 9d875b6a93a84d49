"""Tables in plain text, framed as Flyway frames them."""

from collections.abc import Sequence


def ascii_table(headers: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> str:
    """A table framed in +, - and |; `empty` is written across it when there are no rows."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def line(cells: Sequence[str]) -> str:
        padded = (f" {cell:<{width}} " for cell, width in zip(cells, widths, strict=True))
        return "|" + "|".join(padded) + "|"

    body = [line(row) for row in rows]
    if not rows and empty:
        body = [f"| {empty:<{len(rule) - 4}} |"]
    return "\n".join([rule, line(headers), rule, *body, rule])

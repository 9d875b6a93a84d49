"""Rows as PostgreSQL's COPY has them into Parquet, and out of it again; what is in memory at a time
is a row group of some 64 MB."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from decimal import Context, Decimal
from itertools import chain
from typing import IO, Any, cast

from tsrollup.archive.columns import FLOATS, TEXTS, Column
from tsrollup.archive.storage import Digest
from tsrollup.errors import TsrollupError

ABOUT = b"tsrollup"  # key of the footer, under which a file describes itself
FORMAT = 1
GROUP_BYTES = 64 << 20
GROUP_ROWS = 1_000_000
BATCH_ROWS = 65_536
BLOCK_BYTES = 4 << 20
MOST_BLOCK_BYTES = (1 << 31) - 1
ZSTD_LEVEL = 3
SORTED_IN_RUNS = ("date", "time", "timestamp", "timestamptz")

EXACT = Context(prec=100)  # more digits than a sum can have

Rows = Callable[[int], None]


def require_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise TsrollupError(
            "archives are Parquet, which takes pyarrow", "pip install 'tsrollup[archive]'"
        ) from error
    return pyarrow


def write(
    blocks: Iterable[Any],
    columns: list[Column],
    figures: list[Any],
    about: Mapping[str, Any],
    sink: Digest,
    progress: Rows,
) -> None:
    """Write what COPY ... (FORMAT csv) gives in blocks."""
    pyarrow = require_pyarrow()
    from pyarrow import parquet

    described = {
        **about,
        "format": FORMAT,
        "columns": [asdict(column) for column in columns],
        "figures": figures,
    }
    schema = _schema(columns).with_metadata({ABOUT: json.dumps(described)})
    in_runs = {c.name: "DELTA_BINARY_PACKED" for c in columns if c.kind in SORTED_IN_RUNS}
    with parquet.ParquetWriter(
        cast("IO[bytes]", sink),
        schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=[c.name for c in columns if c.name not in in_runs],
        column_encoding=in_runs or None,
        write_page_checksum=True,
        store_schema=True,
    ) as writer:
        group: list[Any] = []
        for batch in _parsed(blocks, columns, figures):
            group.append(batch)
            progress(batch.num_rows)
            if (
                sum(one.nbytes for one in group) >= GROUP_BYTES
                or sum(one.num_rows for one in group) >= GROUP_ROWS
            ):
                writer.write_table(pyarrow.Table.from_batches(group, schema), GROUP_ROWS)
                group = []
        if group:
            writer.write_table(pyarrow.Table.from_batches(group, schema), GROUP_ROWS)


def described(file: Any) -> tuple[dict[str, Any], list[Column]]:
    """What a file says of itself, and its columns."""
    about = json.loads(file.schema_arrow.metadata[ABOUT])
    if about["format"] > FORMAT:
        raise TsrollupError(
            "a newer tsrollup wrote the file", "restore it with that release, or a later one"
        )
    return about, [Column(**column) for column in about["columns"]]


def opened(stream: IO[bytes]) -> Any:
    """A file whose pages are checked as they are read."""
    from pyarrow import parquet

    return parquet.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False)


def figures_in(file: Any, columns: list[Column], progress: Rows) -> list[Any]:
    """The figures of what a file holds, as columns.figures_of has those of a table."""
    found = [_Figures(column) for column in columns]
    rows = 0
    for batch in file.iter_batches(BATCH_ROWS):
        for figure, values in zip(found, batch.columns, strict=True):
            figure.add(values)
        rows += batch.num_rows
        progress(batch.num_rows)
    return [rows, *(figure.told() for figure in found)]


def as_csv(file: Any, columns: list[Column], progress: Rows) -> Iterator[bytes]:
    """What a file holds, as COPY ... (FORMAT csv) reads it."""
    pyarrow = require_pyarrow()
    from pyarrow import csv

    options = csv.WriteOptions(include_header=False, quoting_style="all_valid")
    for batch in file.iter_batches(BATCH_ROWS):
        arrays = [
            _hex_of(values) if column.kind == "binary" else values
            for column, values in zip(columns, batch.columns, strict=True)
        ]
        buffer = io.BytesIO()
        table = pyarrow.RecordBatch.from_arrays(arrays, [str(n) for n in range(len(arrays))])
        csv.write_csv(table, buffer, options)
        yield buffer.getvalue()
        progress(batch.num_rows)


class _Figures:
    """Count, sum, least and greatest of a column, a batch at a time."""

    def __init__(self, column: Column) -> None:
        self.kind = column.kind
        self.count = 0
        self.sum: Any = 0.0 if column.kind in FLOATS else Decimal(0)
        self.least: Any = None
        self.greatest: Any = None

    def add(self, values: Any) -> None:
        self.count += len(values) - values.null_count
        measured = _measured(values, self.kind)
        total, extremes = _summed(measured, self.kind)
        if extremes["min"].is_valid:
            least, greatest = extremes["min"].as_py(), extremes["max"].as_py()
            self.least = least if self.least is None else min(self.least, least)
            self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)
        self.sum = self.sum + total if self.kind in FLOATS else EXACT.add(self.sum, total)

    def told(self) -> dict[str, Any]:
        def text(value: Any) -> str | None:
            return None if value is None else str(value)

        return {
            "count": self.count,
            "sum": str(self.sum),
            "least": text(self.least),
            "greatest": text(self.greatest),
        }


def _measured(values: Any, kind: str) -> Any:
    """The numbers that a sum is made of; each of columns.MEASURES in the words of Arrow."""
    pyarrow = require_pyarrow()
    from pyarrow import compute

    if kind in TEXTS:
        return compute.binary_length(values).cast(pyarrow.int64())
    if kind == "bool":
        return values.cast(pyarrow.int8()).cast(pyarrow.int64())
    if kind == "date":
        return values.cast(pyarrow.int32()).cast(pyarrow.int64())
    if kind in FLOATS:
        doubles = values.cast(pyarrow.float64())
        return doubles.filter(compute.invert(compute.is_nan(doubles)))
    return values if kind == "decimal" else values.cast(pyarrow.int64())


def _summed(measured: Any, kind: str) -> tuple[Any, Any]:
    pyarrow = require_pyarrow()
    from pyarrow import compute

    extremes = compute.min_max(measured)
    if kind in FLOATS:
        usual = measured.filter(compute.less(compute.abs(measured), 1e290))
        return compute.sum(usual, min_count=0).as_py(), extremes
    # 64 bits are too few for the sum of a batch of the largest.
    scale = measured.type.scale if kind == "decimal" else 0
    wide = measured.cast(pyarrow.decimal256(60, scale))
    return compute.sum(wide, min_count=0).as_py(), extremes


def _schema(columns: list[Column]) -> Any:
    pyarrow = require_pyarrow()
    return pyarrow.schema(
        pyarrow.field(
            column.name,
            _arrow_type(column),
            metadata={"postgresql": column.declared},
        )
        for column in columns
    )


def _arrow_type(column: Column) -> Any:
    pyarrow = require_pyarrow()
    if column.kind == "decimal":
        return pyarrow.decimal128(column.precision, column.scale)
    return {
        "bool": pyarrow.bool_(),
        "int16": pyarrow.int16(),
        "int32": pyarrow.int32(),
        "int64": pyarrow.int64(),
        "float32": pyarrow.float32(),
        "float64": pyarrow.float64(),
        "date": pyarrow.date32(),
        "time": pyarrow.time64("us"),
        "timestamp": pyarrow.timestamp("us"),
        "timestamptz": pyarrow.timestamp("us", "UTC"),
        "binary": pyarrow.binary(),
    }.get(column.kind, pyarrow.string())


def _parsed(blocks: Iterable[Any], columns: list[Column], figures: list[Any]) -> Iterator[Any]:
    pyarrow = require_pyarrow()
    from pyarrow import csv

    # Arrow takes one such mark at the start for the file's: the first value may begin with another.
    stream = _Stream(chain([b"\xef\xbb\xbf"], blocks))
    if figures[0] == 0:  # which is no CSV to Arrow
        stream.readall()
        return
    schema = _schema(columns)
    in_text = {c.name: pyarrow.string() for c in columns if c.kind == "binary"}
    # Empty is NULL, quoted empty is text without letters: as COPY has it.
    reader = csv.open_csv(
        pyarrow.PythonFile(stream, mode="r"),
        csv.ReadOptions(
            use_threads=False,
            block_size=_block_bytes(columns, figures),
            column_names=[c.name for c in columns],
        ),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types={c.name: in_text.get(c.name, schema.field(c.name).type) for c in columns},
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        arrays = [
            _bytes_of(values) if column.kind == "binary" else values
            for column, values in zip(columns, batch.columns, strict=True)
        ]
        yield pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def _block_bytes(columns: list[Column], figures: list[Any]) -> int:
    """Room for the longest row that there may be, twice: a quote in a value is doubled."""
    longest = sum(
        2 * int(figure["greatest"] or 0) if column.kind in TEXTS else 64
        for column, figure in zip(columns, figures[1:], strict=True)
    )
    if 2 * longest > MOST_BLOCK_BYTES:
        raise TsrollupError(
            f"a row may have {longest // 2:,} bytes, which is too long for an archive",
            "DROP the table when it is not wanted, or shorten its values",
        )
    return max(BLOCK_BYTES, 2 * longest)


def _bytes_of(texts: Any) -> Any:
    pyarrow = require_pyarrow()
    made = [None if text is None else bytes.fromhex(text[2:]) for text in texts.to_pylist()]
    return pyarrow.array(made, pyarrow.binary())


def _hex_of(values: Any) -> Any:
    pyarrow = require_pyarrow()
    made = [None if value is None else "\\x" + value.hex() for value in values.to_pylist()]
    return pyarrow.array(made, pyarrow.string())


class _Stream(io.RawIOBase):
    """The blocks of a COPY as one stream."""

    def __init__(self, blocks: Iterable[Any]) -> None:
        self.blocks = iter(blocks)
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        done = 0
        while done < len(into):
            if not self.rest:
                self.rest = memoryview(next(self.blocks, b""))
                if not self.rest:
                    break
            taken = min(len(into) - done, len(self.rest))
            into[done : done + taken] = self.rest[:taken]
            self.rest = self.rest[taken:]
            done += taken
        return done

"""Some rows of a source as text, and the rows that are malformed by themselves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from jobkit.contracts.etl import Column

#: Large enough that Polars works on columns.
BATCH_ROWS = 20_000

#: Bytes of the text in a batch, with what Python adds to each cell. A batch takes a small multiple of it in memory.
BATCH_BYTES = 16 << 20

#: Bytes that Python needs for a cell beside its characters.
CELL_BYTES = 64

#: Characters of one record: a line of JSON, or a row of CSV with all its lines. A parser needs some 25 times as much.
LONGEST_RECORD = 4 << 20

#: Values in one line of JSON. Each takes 100 to 250 bytes, whatever it takes in the line.
MOST_VALUES = 200_000

#: Characters of one cell of a CSV file.
LONGEST_CELL = 1 << 20

#: Characters of a malformed record that are kept with its reject.
LONGEST_REJECT = 1 << 20


@dataclass(frozen=True)
class Reject:
    """A row that is not loaded: its number from 1, why (by column, ``*`` for the row as a whole), and what it held."""

    row: int
    reasons: dict[str, str]
    record: object


#: A row as it is read: its cells in the order of the job's columns, or why there are none.
Row = tuple[str | None, ...] | Reject


@dataclass
class Batch:
    """Some rows of a source: every declared column as text, in the job's order and under its name in the table."""

    columns: Sequence[Column]
    numbers: list[int] = field(default_factory=list)
    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    done: float = 0.0  # the part of the source that has been read, 0 to 1
    bytes: int = 0

    def frame(self) -> pl.DataFrame:
        """The cells, with the row's number in ``_row``."""
        cells = pl.DataFrame(self.rows, schema={c.name: pl.String for c in self.columns}, orient="row")
        return cells.insert_column(0, pl.Series("_row", self.numbers, dtype=pl.Int64))

    @property
    def full(self) -> bool:
        """Whether it is time for the next batch."""
        return len(self.rows) + len(self.rejects) >= BATCH_ROWS or self.bytes >= BATCH_BYTES


def batches(
    rows: Iterator[tuple[int, int, Row]], columns: Sequence[Column], done: Callable[[], float]
) -> Iterator[Batch]:
    """Collect rows, each with its number and its size in characters; ``done`` returns the part that has been read."""
    batch = Batch(columns)
    overhead = CELL_BYTES * (len(columns) + 1)
    for number, size, row in rows:
        batch.bytes += size + overhead
        if isinstance(row, Reject):
            batch.rejects.append(row)
        else:
            batch.numbers.append(number)
            batch.rows.append(row)
        if batch.full:
            batch.done = min(1.0, done())
            yield batch
            batch = Batch(columns)
    batch.done = 1.0
    yield batch

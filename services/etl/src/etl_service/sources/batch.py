"""Some rows of a source as text, and the rows that are malformed by themselves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from etl_service.errors import SourceUnreadable
from jobkit.contracts.etl import Column

#: Large enough that Polars works on columns, small enough that a hundred wide columns stay within some 100 MB.
BATCH_ROWS = 20_000


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

    def frame(self) -> pl.DataFrame:
        """The cells, with the row's number in ``_row``."""
        cells = pl.DataFrame(self.rows, schema={c.name: pl.String for c in self.columns}, orient="row")
        return cells.insert_column(0, pl.Series("_row", self.numbers, dtype=pl.Int64))

    @property
    def full(self) -> bool:
        """Whether it is time for the next batch."""
        return len(self.rows) + len(self.rejects) >= BATCH_ROWS


def batches(rows: Iterator[tuple[int, Row]], columns: Sequence[Column], done: Callable[[], float]) -> Iterator[Batch]:
    """Collect numbered rows; ``done`` returns the part of the source that has been read."""
    batch = Batch(columns)
    for number, row in rows:
        if isinstance(row, Reject):
            batch.rejects.append(row)
        else:
            batch.numbers.append(number)
            batch.rows.append(row)
        if batch.full:
            batch.done = done()
            yield batch
            batch = Batch(columns)
    batch.done = 1.0
    yield batch


def positions_of(names: Sequence[str], columns: Sequence[Column]) -> list[int]:
    """Where the job's columns stand among the names of the source; raises ``SourceUnreadable`` if they do not."""
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise SourceUnreadable(f"the source names the columns {', '.join(repeated)[:500]} more than once")
    if missing := [column.source for column in columns if column.source not in names]:
        raise SourceUnreadable(
            f"the source has no columns {', '.join(missing)[:500]}: it has {', '.join(names)[:500] or 'none'}"
        )
    return [names.index(column.source) for column in columns]

"""Parquet, batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import BATCH_ROWS, Batch, positions_of
from jobkit.contracts.etl import Column


def read_parquet(path: Path, columns: Sequence[Column]) -> Iterator[Batch]:
    """Read a local file; its cells become text, so that one set of rules types the cells of every format."""
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            positions_of(names, columns)
            number = 0
            for record_batch in file.iter_batches(BATCH_ROWS, columns=[column.source for column in columns]):
                count = record_batch.num_rows
                frame = pl.DataFrame(pa.Table.from_batches([record_batch]))
                cells = frame.select([_as_text(frame[c.source], c).alias(c.name) for c in columns])
                numbers = list(range(number + 1, number + count + 1))
                number += count
                yield Batch(columns, numbers, cells.rows(), done=number / file.metadata.num_rows)
            if number == 0:
                yield Batch(columns, done=1.0)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the local disk's fault, not the file's
        reason = (str(error).splitlines() or ["no reason given"])[0][:300]
        raise SourceUnreadable(f"the source is not readable as Parquet, or is cut off: {reason}") from error


def _as_text(cells: pl.Series, column: Column) -> pl.Series:
    kind = cells.dtype
    if isinstance(kind, pl.Datetime):
        utc = cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if kind.time_zone else cells
        return utc.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    if kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Date, pl.Null, pl.Categorical, pl.Enum):
        return cells.cast(pl.String)
    raise SourceUnreadable(f"column {column.source!r} of the source holds {kind}, which cannot become {column.type}")

"""The one place that tells the formats apart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import Batch
from etl_service.sources.csv_file import read_csv
from etl_service.sources.jsonl_file import read_jsonl
from etl_service.sources.parquet_file import read_parquet
from etl_service.sources.writing import AS_USUAL, Writing
from jobkit.contracts.etl import Column, Format


def read(
    path: Path, form: Format, columns: Sequence[Column], writing: Writing = AS_USUAL, *, allow_empty: bool = False
) -> Iterator[Batch]:
    """Read a local file in batches; rows that are malformed by themselves come as rejects.

    Args:
        path: The file.
        form: Its format.
        columns: What to read.
        writing: How it is written.
        allow_empty: Whether a text of 0 bytes is a source without rows.

    Raises:
        SourceUnreadable: the file as a whole is not of that format, or has not the declared columns.
    """
    if path.stat().st_size == 0:
        if allow_empty and form != "parquet":
            yield Batch(columns, done=1.0)
            return
        raise SourceUnreadable("the source is empty: it has 0 bytes")
    reader = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}[form]
    yield from reader(path, columns, writing)

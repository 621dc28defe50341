"""The one place that tells the formats apart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import Batch
from etl_service.sources.csv_file import read_csv
from etl_service.sources.jsonl_file import read_jsonl
from etl_service.sources.parquet_file import read_parquet
from jobkit.contracts.etl import Column, Format


def read(path: Path, form: Format, columns: Sequence[Column]) -> Iterator[Batch]:
    """Read a local file in batches; rows that are malformed by themselves come as rejects.

    Raises:
        SourceUnreadable: the file as a whole is not of that format, or has not the declared columns.
    """
    if path.stat().st_size == 0:
        raise SourceUnreadable("the source is empty: it has 0 bytes")
    reader = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}[form]
    try:
        yield from reader(path, columns)
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.start + 1].hex()
        raise SourceUnreadable(f"the source is not UTF-8 text (byte 0x{bad}): convert it to UTF-8") from error

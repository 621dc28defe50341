"""CSV: a header, then rows."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import LONGEST_REJECT, Batch, Reject, Row, batches
from etl_service.sources.csv_records import Record, Records
from etl_service.sources.names import clean, positions_of
from etl_service.sources.text import encoding_of, opened, part_read
from etl_service.sources.writing import AS_USUAL, Writing
from jobkit.contracts.etl import Column

#: What a first line like ``sep=;`` says to a spreadsheet.
_SEPARATOR = re.compile(r"\ufeff*sep=([^\"\r\n])[\r\n]*", re.IGNORECASE)

#: Delimiters that an error suggests if the header would fit with them.
_OTHERS = (";", "\t", "|", ",")


def read_csv(path: Path, columns: Sequence[Column], writing: Writing = AS_USUAL) -> Iterator[Batch]:
    """Read a local file. A cell has at most ``LONGEST_CELL`` characters, and a record ``LONGEST_RECORD``."""
    size = path.stat().st_size
    with opened(path, encoding_of(path, writing.encoding), newline="") as text:
        records = Records(text, writing.delimiter or ",", nulls=False)
        delimiter = _separator(records, writing)
        header = header_of(records)
        records.nulls = writing.missing is None
        names = [clean(cell or "") for cell in header.cells] if header else []
        hint = _hint(header, columns, delimiter) if header else ""
        positions = positions_of(names, columns, hint=hint)
        yield from batches(_rows(records, len(names), positions), columns, lambda: part_read(text, size))


def _separator(records: Records, writing: Writing) -> str:
    delimiter = writing.delimiter or ","
    if said := _SEPARATOR.fullmatch(records.peek()):
        records.skip()
        if writing.delimiter is None:
            delimiter = said[1]
            records.separate_by(delimiter)
    return delimiter


def header_of(records: Records) -> Record | None:
    """Return the first record, None if there is none.

    Raises:
        SourceUnreadable: it is damaged.
    """
    try:
        header = next(iter(records), None)
    except SourceUnreadable as error:
        raise SourceUnreadable(f"the header of the source is not valid CSV: {error}") from error
    if header is not None and header.damage:
        raise SourceUnreadable(f"the header of the source is not valid CSV: {header.damage}")
    return header


def _hint(header: Record, columns: Sequence[Column], delimiter: str) -> str:
    wanted = {clean(column.source) for column in columns}
    for other in _OTHERS:
        if other != delimiter and wanted <= {clean(name.strip('"')) for name in header.text.split(other)}:
            return f". Its delimiter may be {other!r}: name it in the job"
    return ""


def _rows(records: Records, width: int, positions: Sequence[int | None]) -> Iterator[tuple[int, int, Row]]:
    for number, record in enumerate(records, 1):
        yield number, len(record.text), _row(number, record, width, positions)


def _row(number: int, record: Record, width: int, positions: Sequence[int | None]) -> Row:
    if record.damage:
        return Reject(number, {"*": record.damage}, record.text[:LONGEST_REJECT])
    cells = record.cells
    if len(cells) != width:
        return Reject(number, {"*": f"has {len(cells)} cells instead of {width}"}, cells)
    return tuple([None if position is None else cells[position] for position in positions])

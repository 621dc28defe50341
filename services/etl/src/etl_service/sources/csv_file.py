"""CSV as in RFC 4180: a header, commas, double quotes, UTF-8."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import Batch, Reject, Row, batches, positions_of
from jobkit.contracts.etl import Column


class _Lines:
    """The lines of a file, of which those that belong to the current record are remembered."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.record: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.record.append(line)
            yield line


def read_csv(path: Path, columns: Sequence[Column]) -> Iterator[Batch]:
    """Read a local file. A cell holds at most 128 KiB, so that an unclosed quote cannot take the rest of it."""
    size = path.stat().st_size
    with path.open(encoding="utf-8-sig", newline="") as text:
        lines = _Lines(text)
        reader = csv.reader(lines, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise SourceUnreadable(f"the header of the source is not valid CSV: {error}") from error
        rows = _rows(lines, reader, len(names), positions_of(names, columns))
        yield from batches(rows, columns, lambda: os.lseek(text.fileno(), 0, os.SEEK_CUR) / size)


def _rows(
    lines: _Lines, reader: Iterator[list[str]], width: int, positions: Sequence[int]
) -> Iterator[tuple[int, Row]]:
    number = 0
    while True:
        lines.record.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # The reader starts afresh with the next line; the lines that it has taken are kept in the reject.
            number += 1
            yield number, Reject(number, {"*": f"is not valid CSV: {error}"}, "".join(lines.record))
            continue
        if cells is None:
            return
        if not cells:
            continue  # a blank line is not a row
        number += 1
        if len(cells) == width:
            yield number, tuple([cells[position] for position in positions])
        else:
            yield number, Reject(number, {"*": f"has {len(cells)} cells instead of {width}"}, cells)

"""Records of a CSV text, quotes and all: which cells they have, and where a damaged one ends."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import LONGEST_CELL, LONGEST_RECORD
from etl_service.sources.text import lines
from etl_service.sources.writing import DATABASE_NULLS

#: Lines above this are left to the slow way: ``csv`` refuses cells above 128 KiB.
_LONGEST_FAST_LINE = 100_000


@dataclass(slots=True)
class Record:
    """One record.

    Attributes:
        line: The number of its first line, from 1.
        text: All its lines.
        cells: Without quotes. None stands for a missing value, written as ``NULL`` without quotes.
        damage: Why there are no cells to rely on; empty if there are.
    """

    line: int
    text: str
    cells: list[str | None]
    damage: str = ""


@dataclass
class _Open:
    """What is known of a record that has begun."""

    line: int
    lines: list[str] = field(default_factory=list)
    cells: list[str | None] = field(default_factory=list)
    damage: str = ""
    size: int = 0

    def closed(self) -> Record:
        return Record(self.line, "".join(self.lines), self.cells, self.damage)


class Records:
    r"""Iterate over the records of a text (RFC 4180, with another delimiter if asked).

    Blanks between a delimiter and a quote are dropped. A quote in a cell that began without one is a character like any
    other. A quote in the middle of a quoted cell damages the record. Its end is then where the next quote is followed
    by a delimiter or the end of a line. If a well-formed quoted cell comes first, or no such quote at all, it is at the
    end of its line.

    Args:
        text: Opened with ``newline=""``.
        delimiter: One character.
        nulls: Whether cells without quotes that are ``NULL`` or ``\\N`` are missing values.

    Raises:
        SourceUnreadable: while iterating: nobody can tell where the record ends. What follows could be false rows.
    """

    def __init__(self, text: TextIO, delimiter: str, *, nulls: bool) -> None:
        self._lines, self.nulls = lines(text, LONGEST_RECORD), nulls
        self._ahead: deque[str] = deque()  # lines that were looked at, and not taken
        self._plain = self._plain_size = 0  # lines, and characters, at its front without a quote that tells an end
        self._number = 0
        self._line = ""  # what the fast way reads next
        self.separate_by(delimiter)

    def separate_by(self, delimiter: str) -> None:
        """From the next line on, cells are separated by ``delimiter``."""
        mark = re.escape(delimiter)
        blank = "[" + "".join(re.escape(blank) for blank in " \t" if blank != delimiter) + "]"
        end = rf"{blank}*+(?:({mark})|\r\n|\r|\n|\Z)"
        cell = rf'(?:"[^"]*+"|[^"{mark}\r\n]*+)'
        self._delimiter = delimiter
        self._blanks = " \t\r\n\xa0" + delimiter
        self._opening = re.compile(rf'{blank}*+"')
        self._body = re.compile(r'[^"]*+(?:""[^"]*+)*+')
        self._closing = re.compile(rf'"{end}')
        self._quoted = re.compile(rf'"[^"]*+(?:""[^"]*+)*+"{end}')
        self._fast = csv.reader(iter(lambda: self._line, None), delimiter=delimiter)
        self._regular = re.compile(rf"{cell}(?:{mark}{cell})*+(?:\r\n|\r|\n|\Z)")

    def peek(self) -> str:
        """Return the next line, empty at the end, without taking it."""
        line = self._look(0)
        return "" if line is None else line

    def skip(self) -> None:
        """Take the next line."""
        self._take()

    def __iter__(self) -> Iterator[Record]:
        while (line := self._take()) is not None:
            if not line.strip(self._blanks):
                continue  # blank, or nothing but delimiters, as spreadsheets leave behind: no row
            yield self._record(line)

    def _record(self, line: str) -> Record:
        has_null = self.nulls and ("NULL" in line or "\\N" in line)
        if '"' not in line:
            cells: list[str | None] = [*line.rstrip("\r\n").split(self._delimiter)]
            if has_null:
                cells = [None if cell is not None and cell.strip() in DATABASE_NULLS else cell for cell in cells]
            if len(line) > LONGEST_CELL and any(cell and len(cell) > LONGEST_CELL for cell in cells):
                return Record(self._number, line, [], _TOO_LONG)
            return Record(self._number, line, cells)
        if not has_null and len(line) < _LONGEST_FAST_LINE and self._regular.fullmatch(line):
            self._line = line
            return Record(self._number, line, [*next(self._fast)])
        return self._slow(line)

    def _slow(self, line: str) -> Record:
        record = _Open(self._number, [line], size=len(line))
        at: int | None = 0
        while at is not None:
            if opening := self._opening.match(line, at):
                line, at = self._quoted_cell(record, line, opening.end())
            else:
                at = self._unquoted_cell(record, line, at)
        return record.closed()

    def _unquoted_cell(self, record: _Open, line: str, at: int) -> int | None:
        end = line.find(self._delimiter, at)
        cell = line[at:end] if end >= 0 else line[at:].rstrip("\r\n")
        if len(cell) > LONGEST_CELL:
            record.damage = record.damage or _TOO_LONG
        record.cells.append(None if self.nulls and cell.strip() in DATABASE_NULLS else cell)
        return end + 1 if end >= 0 else None

    def _quoted_cell(self, record: _Open, line: str, at: int) -> tuple[str, int | None]:
        """Read a cell from behind its opening quote; return the line in which it ends, and where the next begins."""
        parts, first = [], len(record.lines)
        while True:
            end = self._body.match(line, at).end()  # type: ignore[union-attr]  # it matches anything
            parts.append(line[at:end])
            if end < len(line):
                break
            further = self._further(record)
            if further is None:
                return self._never_closed(record, first, line)
            line, at = further, 0
        closing = self._closing.match(line, end)
        if closing is None:
            return self._stray(record, first, line, end)
        cell = "".join(parts).replace('""', '"')
        if len(cell) > LONGEST_CELL:
            record.damage = record.damage or _TOO_LONG
        record.cells.append(cell)
        return line, closing.end() if closing[1] else None

    def _never_closed(self, record: _Open, first: int, line: str) -> tuple[str, None]:
        swallowed = len(record.lines) - first
        if swallowed:
            raise SourceUnreadable(
                f"the source ends in a quoted cell that begins in line {record.line + first - 1}: "
                f"it is cut off, or that quote is never closed ({swallowed} further lines)"
            )
        record.damage = "is not valid CSV: the source ends within a quoted cell"
        return line, None

    def _stray(self, record: _Open, first: int, line: str, at: int) -> tuple[str, int | None]:
        """Find the end of a record with a stray quote in a cell; ``first`` lines were taken when the cell began."""
        number = record.line + len(record.lines) - 1
        record.damage = record.damage or (
            f"is not valid CSV: in line {number} a quote within a quoted cell is not doubled"
        )
        later = len(record.lines) > first
        found = self._telling_quote(line, at, later=later)
        if found is None:
            return self._stray_beyond(record, line)
        opens, place = found
        if not opens:
            closing = self._closing.match(line, place)
            assert closing is not None  # noqa: S101  that is what makes the quote telling
            return line, closing.end() if closing[1] else None
        for taken in reversed(record.lines[first:]):  # the cell was never closed, and this is another record
            self._ahead.appendleft(taken)
            self._number -= 1
        self._plain = self._plain_size = 0
        del record.lines[first:]
        return line, None

    def _stray_beyond(self, record: _Open, line: str) -> tuple[str, int | None]:
        while record.size + self._plain_size < LONGEST_RECORD and (further := self._look(self._plain)) is not None:
            found = self._telling_quote(further, 0, later=True)
            if found is None:
                self._plain += 1
                self._plain_size += len(further)
                continue
            opens, place = found
            if opens:
                return line, None
            for _ in range(self._plain + 1):
                self._further(record)
            closing = self._closing.match(further, place)
            assert closing is not None  # noqa: S101  that is what makes the quote telling
            return further, closing.end() if closing[1] else None
        if line.count('"') % 2 and self._look(0) is not None:
            raise SourceUnreadable(
                f"the record in line {record.line} has a quote too many or too few, and nothing shows where it ends"
            )
        return line, None

    def _telling_quote(self, line: str, at: int, *, later: bool) -> tuple[bool, int] | None:
        """Return the first quote that tells where a damaged cell ends, and whether it opens a cell of its own.

        Args:
            line: Where to look.
            at: From there on.
            later: Whether the line is another than that in which the damaged cell begins.
        """
        at = line.find('"', at)
        while at >= 0:
            closes = self._closing.match(line, at) is not None
            starts = at == 0 or line[at - 1] == self._delimiter
            if later and starts and not closes and self._quoted.match(line, at):
                return True, at
            if line.startswith('""', at):
                at = line.find('"', at + 2)
                continue
            if closes:
                return False, at
            at = line.find('"', at + 1)
        return None

    def _further(self, record: _Open) -> str | None:
        line = self._take()
        if line is not None:
            record.lines.append(line)
            record.size += len(line)
            if record.size > LONGEST_RECORD:
                raise SourceUnreadable(
                    f"the record in line {record.line} has more than {LONGEST_RECORD:,} characters: "
                    "a quote in it is not closed, or it is too long to be read"
                )
        return line

    def _look(self, index: int) -> str | None:
        while len(self._ahead) <= index:
            line = self._next()
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[index]

    def _next(self) -> str | None:
        line, cut = next(self._lines, (None, False))
        if cut:
            raise SourceUnreadable(
                f"line {self._number + len(self._ahead) + 1} has more than {LONGEST_RECORD:,} characters: "
                "is it a CSV file, and are its lines separated?"
            )
        return line

    def _take(self) -> str | None:
        if not self._ahead:
            line = self._next()
            self._number += line is not None
            return line
        self._number += 1
        line = self._ahead.popleft()
        if self._plain:
            self._plain -= 1
            self._plain_size -= len(line)
        return line


_TOO_LONG = f"has a cell of more than {LONGEST_CELL:,} characters"

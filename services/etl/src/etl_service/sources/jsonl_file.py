"""JSON Lines: one object in each line (https://jsonlines.org)."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import LONGEST_RECORD, LONGEST_REJECT, MOST_VALUES, Batch, Reject, Row, batches
from etl_service.sources.json_values import Digits, parse, text_of, written_out
from etl_service.sources.names import clean, shown
from etl_service.sources.text import encoding_of, lines, opened, part_read
from etl_service.sources.writing import AS_USUAL, Writing
from jobkit.contracts.etl import Column

#: Types whose cells are read with the job's decimal and thousands marks.
_NUMBERS = frozenset({"integer", "number", "decimal"})

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')

#: Names of fields that are shown if none is a declared one.
_MOST_NAMES = 100


def read_jsonl(path: Path, columns: Sequence[Column], writing: Writing = AS_USUAL) -> Iterator[Batch]:
    """Read a local file of lines of up to ``LONGEST_RECORD`` characters; a field that a record lacks is missing.

    Raises:
        SourceUnreadable: a declared field is in no record at all, or the file is one JSON value of many lines.
    """
    size = path.stat().st_size
    objects = _Objects(columns, writing)
    with opened(path, encoding_of(path, writing.encoding), newline="\n") as text:
        numbered = enumerate((one for one in lines(text, LONGEST_RECORD) if not one[0].isspace()), 1)
        rows = ((number, len(line), objects.row(number, line, cut=cut)) for number, (line, cut) in numbered)
        yield from batches(rows, columns, lambda: part_read(text, size))
    objects.check_fields()


class _Objects:
    """Turns lines into rows, and remembers which fields there were."""

    def __init__(self, columns: Sequence[Column], writing: Writing) -> None:
        self._columns = [(column, clean(column.source), _cell_of(column, writing)) for column in columns]
        self._absent = {clean(column.source) for column in columns if not column.may_be_absent}
        self._names: dict[str, str] = {}  # as they are written → as they are meant
        self._records = 0

    def row(self, number: int, line: str, *, cut: bool) -> Row:
        if number == 1:
            refuse_one_value(line)
        if cut or _values(line) > MOST_VALUES:
            limit = f"{LONGEST_RECORD:,} characters" if cut else f"{MOST_VALUES:,} values"
            return Reject(number, {"*": f"has more than {limit}"}, line[:LONGEST_REJECT])
        try:
            record = self._record(line)
        except ValueError as error:
            return Reject(number, {"*": str(error)}, line.strip()[:LONGEST_REJECT])
        self._records += 1
        if self._absent:
            self._absent.difference_update(record)
        nested = [
            column.name
            for column, name, _ in self._columns
            if column.type != "json" and isinstance(record.get(name), list | dict)
        ]
        if nested:
            kept: object = line.strip()[:LONGEST_REJECT]
            with suppress(ValueError, RecursionError):  # numbers of more digits than Python converts
                kept = json.loads(line)
            return Reject(number, dict.fromkeys(nested, "is a list or an object, not one value"), kept)
        try:
            return tuple([cell(record.get(name)) for _, name, cell in self._columns])
        except RecursionError:  # Python parses deeper than it writes
            return Reject(number, {"*": "is nested too deeply"}, line.strip()[:LONGEST_REJECT])

    def check_fields(self) -> None:
        if self._records and self._absent:
            found = shown(list(self._names.values())[:_MOST_NAMES])
            raise SourceUnreadable(
                f"no record of the source has the fields {shown(sorted(self._absent))}: they have {found or 'none'}. "
                "Check source_name, or say may_be_absent"
            )

    def _record(self, line: str) -> dict[str, object]:
        record = parse(line.lstrip("\ufeff"))  # where files were joined
        if not isinstance(record, dict):
            raise ValueError("is not a JSON object")  # noqa: TRY004  one type for all that is wrong with a line
        meant = {self._meant(name): value for name, value in record.items()}
        if len(meant) < len(record):
            raise ValueError("names a field twice, apart from invisible characters")
        return meant

    def _meant(self, name: str) -> str:
        meant = self._names.get(name)
        if meant is None:
            meant = clean(name)
            if len(self._names) < 10_000:  # hostile records could name ever new ones
                self._names[name] = meant
        return meant


def _cell_of(column: Column, writing: Writing) -> Callable[[object], str | None]:
    """What turns the values of a column into text cells."""
    is_number, mark = column.type in _NUMBERS, writing.decimal_mark

    def cell(value: object) -> str | None:
        if value is None:
            return None
        if column.type == "json":
            return text_of(value)
        if isinstance(value, Digits):
            return written_out(value).replace(".", mark) if is_number else str(value)
        if isinstance(value, str):
            return value
        return "true" if value else "false"

    return cell


def _values(line: str) -> int:
    """About how many values a line has."""
    count = line.count(",") + line.count("{") + line.count("[")
    if count > MOST_VALUES:  # many commas may be those of a text
        line = _STRING.sub("", line)
        count = line.count(",") + line.count("{") + line.count("[")
    return count


def refuse_one_value(line: str) -> None:
    """Raise if a first line shows that the file is one JSON value over many lines.

    Raises:
        SourceUnreadable: it does.
    """
    start = line.strip()
    if start in {"[", "{", "[{"}:
        raise SourceUnreadable(
            "no row of the source can be read as jsonl: it is one JSON value over many lines, and JSON Lines have an "
            "object in each line (jq -c '.[]' writes those of an array)"
        )

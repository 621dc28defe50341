"""What a source looks like: its format, encoding, delimiter and types, and the job that would read it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter, ValidationError

from etl_service.casting import cast
from etl_service.errors import ColumnUnreadable, SourceUnreadable
from etl_service.sources.batch import LONGEST_RECORD
from etl_service.sources.csv_file import header_of
from etl_service.sources.csv_records import Records
from etl_service.sources.json_values import parse
from etl_service.sources.jsonl_file import refuse_one_value
from etl_service.sources.names import clean, shown
from etl_service.sources.parquet_file import opened_parquet
from etl_service.sources.reader import read
from etl_service.sources.text import encoding_of, guessed_encoding, lines, opened
from etl_service.sources.writing import Writing
from jobkit.contracts.etl import LONGEST_SOURCE_NAME, MOST_COLUMNS, Column, Format, RunPipeline, Table

#: Rows that are looked at.
SAMPLE = 10_000

#: Bytes of text that are looked at, in case that rows are long.
_SAMPLE_BYTES = 64 << 20

#: Rows that most wrong types do not get past.
_FEW = 50

_DELIMITERS = (",", ";", "\t", "|")

#: Decimal and thousands marks, the most usual first.
_MARKS = ((".", ""), (",", ""), (",", "."), (".", ","), (",", " "), (".", "'"))

#: What people write for a missing value. Names of columns and countries are not among them unless nothing else fits.
_MISSING = ("NULL", "null", r"\N", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "None", "-", "--", "?")

_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%d.%m.%y", "%d %b %Y", "%d-%b-%y")
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")

#: How an object, or an array of values, begins.
_JSON = re.compile(rb"\{|\[\s*[\[{\"\]]")

#: What all of them have; few texts do.
_DAY = r"[0-9][-./ ]\w+[-./ ]+[0-9]|[0-9]{8}"

#: A number with a leading zero is a code, such as a postcode: as a number it would lose the zero.
_CODE = r"^[+-]?0[0-9]"

#: No number has a letter but that of its exponent.
_WORD = re.compile(r"[^\W\d_eE]")

_DIGITS = re.compile(r"[+-]?([0-9]*)\.?([0-9]*)")

#: Bytes of a proposed name, with room for a number behind it.
_LONGEST_NAME = 40

_LEAST_PRECISION, _MOST_PRECISION = 18, 38


@dataclass(frozen=True)
class Inspection:
    """What was found, and what is uncertain about it."""

    job: RunPipeline
    encoding: str | None
    rows: int
    whole: bool
    notes: tuple[str, ...]


def inspect(path: Path, source: str, *, form: Format | None = None, writing: Writing | None = None) -> Inspection:
    """Look at a local file.

    Args:
        path: The file, unpacked.
        source: Its name in the job.
        form: Its format, if it is known.
        writing: What is known of how it is written: delimiter and encoding.

    Raises:
        SourceUnreadable: it is not readable as its format, or holds no column.
    """
    if path.stat().st_size == 0:
        raise SourceUnreadable("the source is empty: it has 0 bytes")
    form, writing = form or _format_of(path), writing or Writing()
    notes: list[str] = []
    encoding = None
    if form != "parquet":
        encoding, sure = guessed_encoding(path, writing.encoding)
        if not sure:
            notes.append(f"encoding {encoding} is a guess: look at the letters beyond ASCII")
        if encoding not in {"utf-8", "utf-16"}:
            writing = replace(writing, encoding=encoding)
    if form == "csv" and writing.delimiter is None:
        writing = replace(writing, delimiter=_delimiter_of(path, writing))
    names, nested = _names(path, form, writing)
    names, more = _usable(names)
    notes += more
    columns = _columns(names, nested)
    cells, whole = _cells(path, form, columns, writing, notes)
    columns = [column for column in columns if column.name in cells.columns]
    columns, writing, guesses = _typed(cells, columns, writing)
    notes += guesses
    told = {name: value for name, value in vars(writing).items() if value is not None}
    job = RunPipeline.model_validate(
        {"source": source, "format": form, "table": _table_of(source)} | {"columns": columns} | told
    )
    return Inspection(job, encoding, cells.height, whole, tuple(notes))


def _format_of(path: Path) -> Format:
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith((b"PAR1", b"PARE")):  # the latter is encrypted
        return "parquet"
    return "jsonl" if _JSON.match(start.lstrip(b"\xef\xbb\xbf \t\r\n")) else "csv"


def _delimiter_of(path: Path, writing: Writing) -> str:
    def score(delimiter: str) -> tuple[int, int]:
        with opened(path, encoding_of(path, writing.encoding), newline="") as text:
            records = list(islice(_whole(Records(text, delimiter, nulls=True)), 100))
        width = len(records[0]) if records else 0
        return sum(len(cells) == width for cells in records) if width > 1 else 0, width

    with opened(path, encoding_of(path, writing.encoding), newline="") as text:
        said = re.fullmatch(r"\ufeff*sep=([^\"\r\n])[\r\n]*", text.readline(20), re.IGNORECASE)
    return said[1] if said else max(_DELIMITERS, key=score)


def _whole(records: Records) -> Iterator[Sequence[str | None]]:
    try:
        yield from (record.cells for record in records if not record.damage)
    except SourceUnreadable:  # with another delimiter its quotes may make sense
        return


def _names(path: Path, form: Format, writing: Writing) -> tuple[list[str], set[str]]:
    """The names of the source's columns, and which of them hold lists or objects."""
    if form == "parquet":
        with opened_parquet(path) as file:
            fields = list(file.schema_arrow)
        return [clean(one.name) for one in fields], {clean(one.name) for one in fields if one.type.num_fields}
    if form == "csv":
        with opened(path, encoding_of(path, writing.encoding), newline="") as text:
            records = Records(text, writing.delimiter or ",", nulls=False)
            if records.peek().lstrip("\ufeff").lower().startswith("sep="):
                records.skip()
            header = header_of(records)
            return [clean(cell or "") for cell in header.cells] if header else [], set()
    return _fields(path, writing)


def _fields(path: Path, writing: Writing) -> tuple[list[str], set[str]]:
    """The fields of JSON Lines, and which of them hold lists or objects."""
    names: dict[str, None] = {}
    nested: set[str] = set()
    reason = ""
    with opened(path, encoding_of(path, writing.encoding), newline="\n") as text:
        for number, (line, _) in enumerate(islice(lines(text, LONGEST_RECORD), SAMPLE), 1):
            try:
                record = parse(line.lstrip("\ufeff"))
            except ValueError as error:
                record, problem = None, str(error)
            else:
                problem = "is not a JSON object"
            if isinstance(record, dict):
                names |= dict.fromkeys(map(clean, record))
                nested |= {clean(name) for name, value in record.items() if isinstance(value, list | dict)}
            elif not reason and not line.isspace():
                refuse_one_value(line)
                reason = f": line {number} {problem}"
    if not names:
        raise SourceUnreadable(f"the source has no line with a JSON object that names a field{reason}")
    return list(names), nested


def _usable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that a job can have, and notes on the others.

    Raises:
        SourceUnreadable: there are none.
    """
    counts = Counter(names)
    others = {
        "the source names them more than once": [name for name in counts if name and counts[name] > 1],
        f"a name has at most {LONGEST_SOURCE_NAME} characters": [n for n in counts if len(n) > LONGEST_SOURCE_NAME],
    }
    usable = [name for name in names if name and counts[name] == 1 and len(name) <= LONGEST_SOURCE_NAME]
    others[f"a job has at most {MOST_COLUMNS} columns"] = usable[MOST_COLUMNS:]
    notes = [f"left out, as {why}: {shown(left)[:300]}" for why, left in others.items() if left]
    if "" in counts:
        notes.append(f"left out, as they have no name: {counts['']} columns")
    if not usable:
        raise SourceUnreadable(f"the source has no usable column ({'; '.join(notes) or 'it has no header'})")
    return usable[:MOST_COLUMNS], notes


def _columns(names: Sequence[str], nested: set[str]) -> list[Column]:
    taken: set[str] = set()
    columns = []
    for name in names:
        identifier = _identifier(name, taken)
        source_name = None if identifier == name else name
        columns.append(Column(name=identifier, type="json" if name in nested else "text", source_name=source_name))
    return columns


def _identifier(name: str, taken: set[str]) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    word = re.sub(r"\W+", "_", words).strip("_").encode()[:_LONGEST_NAME].decode(errors="ignore") or "column"
    word = word if word[0].isalpha() else f"c_{word}"
    found, number = word, 2
    while found in taken:
        found, number = f"{word}_{number}", number + 1
    taken.add(found)
    return found


def _table_of(source: str) -> str:
    name = _identifier(Path(source).name.split(".")[0], set())
    try:
        return TypeAdapter(Table).validate_python(name)
    except ValidationError:  # the name belongs to the database or to the service
        return f"t_{name}"


def _cells(
    path: Path, form: Format, columns: Sequence[Column], writing: Writing, notes: list[str]
) -> tuple[pl.DataFrame, bool]:
    """The first cells, and whether these are all; columns that cannot be read are left out with a note.

    Raises:
        SourceUnreadable: nothing can be read.
    """
    try:
        return _sample(path, form, columns, writing)
    except ColumnUnreadable as error:
        columns = [column for column in columns if column.source != error.column]
        if not columns:
            raise
        notes.append(f"left out: {error}")
        return _cells(path, form, columns, writing, notes)


def _sample(path: Path, form: Format, columns: Sequence[Column], writing: Writing) -> tuple[pl.DataFrame, bool]:
    frames, rows, size, batches = [], 0, 0.0, read(path, form, columns, writing, allow_empty=True)
    for batch in batches:
        frames.append(batch.frame())
        rows += frames[-1].height
        size += frames[-1].estimated_size()
        if rows >= SAMPLE or size >= _SAMPLE_BYTES:
            break
    return pl.concat(frames).head(SAMPLE), rows <= SAMPLE and next(batches, None) is None


def _typed(
    cells: pl.DataFrame, columns: Sequence[Column], writing: Writing
) -> tuple[list[Column], Writing, tuple[str, ...]]:
    """The columns with their types, and what that takes: marks of numbers and spellings of missing values."""
    typed, option = _typed_with(cells, columns, writing)
    if any(bool(cells[column.name].str.strip_chars().is_in(_MISSING).any()) for column in columns):
        lenient = _typed_with(cells, columns, replace(writing, missing=_MISSING))
        typed, option = max((typed, option), lenient, key=lambda one: sum(column.type != "text" for column in one[0]))
    if option.missing is not None:
        used = [spelling for spelling in option.missing if _occurs(cells, typed, spelling)]
        option = replace(option, missing=tuple(used) or None)
    notes = tuple(
        f"{column.name}: {column.format} is a guess, as no day is above 12"
        for column in typed
        if column.format and "%d/%m" in column.format and _fits(cells, _other_order(column), option)
    )
    return typed, option, notes


def _typed_with(cells: pl.DataFrame, columns: Sequence[Column], writing: Writing) -> tuple[list[Column], Writing]:
    """The columns with their types, and the marks with which most of them are numbers."""
    texts = [column for column in columns if column.type == "text"]

    def numbers(marks: Writing) -> dict[str, Column]:
        found = {column.name: _first_fit(cells, _numbers(cells[column.name], column, marks), marks) for column in texts}
        return {name: column for name, column in found.items() if column is not None}

    marks_there = _marks_in(cells, texts)
    options = [
        replace(writing, decimal_mark=point, thousands_mark=thousands)
        for point, thousands in _MARKS
        if (point, thousands) == _MARKS[0] or marks_there.issuperset(point + thousands)
    ]
    found, option = max(((numbers(marks), marks) for marks in options), key=lambda one: len(one[0]))
    for column in texts:
        if column.name not in found and (other := _first_fit(cells, _others(cells[column.name], column), option)):
            found[column.name] = other
    return [found.get(column.name, column) for column in columns], option


def _marks_in(cells: pl.DataFrame, columns: Sequence[Column]) -> set[str]:
    """Which of the marks of numbers are in the cells, whatever they stand for there."""
    spelt = {" ": "[ \u00a0\u2009\u202f]", "'": "['\u2019]", ".": "[.]", ",": ","}
    return {
        mark
        for mark, pattern in spelt.items()
        if any(bool(cells[column.name].str.contains(pattern).any()) for column in columns)
    }


def _other_order(column: Column) -> Column:
    assert column.format is not None  # noqa: S101  asked of such columns only
    return column.model_copy(update={"format": column.format.replace("%d/%m", "%m/%d")})


def _occurs(cells: pl.DataFrame, columns: Sequence[Column], spelling: str) -> bool:
    return any(bool((cells[c.name].str.strip_chars() == spelling).any()) for c in columns if c.type != "text")


def _first_fit(cells: pl.DataFrame, options: Iterator[Column], writing: Writing) -> Column | None:
    return next((option for option in options if _fits(cells, option, writing)), None)


def _fits(cells: pl.DataFrame, column: Column, writing: Writing) -> bool:
    if cells[column.name].null_count() == cells.height:
        return False
    few = cells.select("_row", column.name).head(_FEW)
    if cast(few, [column], (), writing)[1]:
        return False
    rows, rejects = cast(cells.select("_row", column.name), [column], (), writing)
    return not rejects and rows[column.name].null_count < rows.num_rows


def _option(column: Column, kind: str, form: str | None = None) -> Column:
    return Column.model_validate(column.model_dump() | {"type": kind, "format": form})


def _numbers(cells: pl.Series, column: Column, writing: Writing) -> Iterator[Column]:
    few = {cell.strip() for cell in cells.head(_FEW).drop_nulls()} - set(writing.missing or ())
    if any(map(_WORD.search, few)) or cells.str.strip_chars().str.contains(_CODE).any():
        return
    yield _option(column, "integer")
    precision, scale = _digits(cells, writing)
    if scale and precision <= _MOST_PRECISION:
        yield _option(column, f"decimal({max(precision, _LEAST_PRECISION)}, {scale})")
    yield _option(column, "number")


def _others(cells: pl.Series, column: Column) -> Iterator[Column]:
    if not cells.is_in(["0", "1"]).any():
        yield _option(column, "boolean")
    yield from (_option(column, kind) for kind in ("date", "timestamp", "uuid"))
    if not cells.str.contains(_DAY).any():
        return
    yield from (_option(column, "date", day) for day in _DATES)
    yield from (_option(column, "timestamp", f"{day} {clock}") for day in _DATES for clock in _CLOCKS)


def _digits(cells: pl.Series, writing: Writing) -> tuple[int, int]:
    """The precision and the scale that all numbers in a column need."""
    whole = scale = 0
    for cell in cells.drop_nulls().to_list():
        plain = cell.strip().replace(writing.thousands_mark or " ", "").replace(writing.decimal_mark, ".")
        found = _DIGITS.match(plain)
        if found is not None:
            whole, scale = max(whole, len(found[1])), max(scale, len(found[2]))
    return whole + scale, scale

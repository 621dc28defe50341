"""JSON Lines: one object in each line, UTF-8 (https://jsonlines.org)."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import Batch, Reject, Row, batches
from jobkit.contracts.etl import Column


def read_jsonl(path: Path, columns: Sequence[Column]) -> Iterator[Batch]:
    """Read a local file; a field that a record does not have is missing."""
    size = path.stat().st_size
    absent = {column.source for column in columns if column.required}
    records = 0

    def row(number: int, line: str) -> Row:
        nonlocal records
        try:
            record = _json_object(line)
        except (ValueError, RecursionError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
            return Reject(number, {"*": reason}, line.strip())
        records += 1
        absent.difference_update(record)
        if nested := [c.name for c in columns if isinstance(record.get(c.source), list | dict)]:
            return Reject(number, dict.fromkeys(nested, "is a list or an object, not one value"), record)
        return tuple([_json_cell(record.get(column.source)) for column in columns])

    with path.open(encoding="utf-8-sig", newline="\n") as text:
        lines = (line for line in text if not line.isspace())
        rows = ((number, row(number, line)) for number, line in enumerate(lines, 1))
        yield from batches(rows, columns, lambda: os.lseek(text.fileno(), 0, os.SEEK_CUR) / size)
    if records and absent:
        raise SourceUnreadable(f"no record of the source has the required fields {', '.join(sorted(absent))[:500]}")


def _json_object(line: str) -> dict[str, object]:
    def no_constant(name: str) -> object:
        raise ValueError(f"is not valid JSON: {name} is not a JSON value")

    try:
        record = json.loads(line, parse_constant=no_constant)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg} at character {error.pos + 1}") from error
    except UnicodeEncodeError as error:
        raise ValueError("is not valid JSON: holds half of a surrogate pair") from error
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004  one type for all that is wrong with a line
    return record


def _json_cell(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)

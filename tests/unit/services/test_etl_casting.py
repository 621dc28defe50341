import math
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_service.casting import cast
from etl_service.sources.batch import Reject
from jobkit.contracts.etl import Column


def cast_one(text: str | None, **column: object) -> tuple[list[object], list[Reject]]:
    declared = Column.model_validate({"name": "cell", "type": "text"} | column)
    frame = pl.DataFrame({"_row": [1], "cell": [text]}, schema={"_row": pl.Int64, "cell": pl.String})
    typed, rejects = cast(frame, [declared])
    return typed["cell"].to_pylist(), rejects


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", " +0012 ", 12),
        ("integer", "12.00", 12),
        ("integer", "-9223372036854775808", -(2**63)),
        ("number", ".5", 0.5),
        ("number", "1E-3", 0.001),
        ("boolean", "Yes", True),
        ("boolean", "F", False),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("date", "2024-02-29T00:00:00.000Z", date(2024, 2, 29)),
        ("timestamp", "2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("timestamp", "2024-02-29 23:30-0130", datetime(2024, 3, 1, 1, 0, tzinfo=UTC)),
        ("timestamp", "2024-02-29T01:02:03.1234567Z", datetime(2024, 2, 29, 1, 2, 3, 123456, tzinfo=UTC)),
        ("text", "  ", None),
        ("integer", "", None),
    ],
)
def test_what_reads_as_its_type_is_taken(kind: str, text: str, value: object) -> None:
    assert cast_one(text, type=kind) == ([value], [])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "1.5"),
        ("integer", "1_000"),
        ("integer", "9223372036854775808"),
        ("integer", "٣"),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "1e999"),
        ("number", "1,5"),
        ("number", "0x1F"),
        ("boolean", "2"),
        ("date", "2023-02-29"),
        ("date", "01/02/2024"),
        ("date", "2024-01-01T10:00"),
        ("date", "0000-01-01"),
        ("timestamp", "2024-01-01T24:00"),
        ("timestamp", "2024-01-01T10:00:60"),
        ("timestamp", "0001-01-01T00:00+01:00"),
        ("timestamp", "yesterday"),
        ("text", "a\0b"),
    ],
)
def test_what_does_not_read_as_its_type_is_a_reject_that_shows_it(kind: str, text: str) -> None:
    values, rejects = cast_one(text, type=kind)
    assert values == []
    assert rejects[0].row == 1
    assert rejects[0].record == {"cell": text}
    assert text in rejects[0].reasons["cell"]


def test_a_missing_required_cell_is_a_reject() -> None:
    assert cast_one("  ", required=True) == ([], [Reject(1, {"cell": "is missing"}, {"cell": "  "})])


def test_text_is_normalised_as_the_column_asks() -> None:
    assert cast_one(" Aé ", case="upper")[0] == ["AÉ"]
    assert cast_one(" Aé ", trim=False)[0] == [" Aé "]


@settings(max_examples=60, deadline=None)
@given(st.integers(-(2**65), 2**65))
def test_an_integer_is_kept_exactly_or_rejected(number: int) -> None:
    values, rejects = cast_one(str(number), type="integer")
    assert values == ([number] if -(2**63) <= number < 2**63 else [])
    assert len(values) + len(rejects) == 1


@settings(max_examples=60, deadline=None)
@given(st.floats())
def test_a_number_survives_exactly_unless_it_is_not_finite(number: float) -> None:
    values, _ = cast_one(repr(number), type="number")
    assert values == ([number] if math.isfinite(number) else [])


@settings(max_examples=60, deadline=None)
@given(st.datetimes(timezones=st.just(UTC)), st.integers(-1439, 1439))
def test_a_timestamp_is_the_same_moment_in_utc(moment: datetime, offset: int) -> None:
    try:
        local = moment.astimezone(timezone(timedelta(minutes=offset)))
    except OverflowError:  # before the year 1 or after the year 9999 on that clock
        return
    assert cast_one(local.isoformat(), type="timestamp") == ([moment], [])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["text", "integer", "number", "boolean", "date", "timestamp"]))
def test_any_cell_is_either_typed_or_rejected(text: str, kind: str) -> None:
    values, rejects = cast_one(text, type=kind)
    assert len(values) + len(rejects) == 1

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_service.adapters.rounded import rounded_of
from etl_service.casting import cast
from etl_service.sources.batch import Reject
from etl_service.sources.writing import AS_USUAL, Writing
from jobkit.contracts.etl import Column


def cast_one(text: str | None, writing: Writing = AS_USUAL, /, **column: object) -> tuple[list[object], list[Reject]]:
    declared = Column.model_validate({"name": "cell", "type": "text"} | column)
    frame = pl.DataFrame({"_row": [1], "cell": [text]}, schema={"_row": pl.Int64, "cell": pl.String})
    typed, rejects = cast(frame, [declared], (), writing)
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


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ({"type": "decimal(10, 2)"}, "1.10", Decimal("1.10")),
        ({"type": "decimal(10, 2)"}, "-1e3", Decimal("-1000.00")),
        ({"type": "decimal(38, 0)"}, "9" * 38, Decimal("9" * 38)),
        ({"type": "decimal(38, 36)"}, "0.000000000000000000000000000000000001", Decimal("1e-36")),
        ({"type": "decimal(3, 3)"}, "0.9990", Decimal("0.999")),
        ({"type": "uuid"}, "{550E8400-E29B-41D4-A716-446655440000}", "550e8400-e29b-41d4-a716-446655440000"),
        ({"type": "uuid"}, "550e8400e29b41d4a716446655440000", "550e8400-e29b-41d4-a716-446655440000"),
        ({"type": "json"}, ' {"a": 1.10} ', '{"a": 1.10}'),
        ({"type": "timestamp"}, "2026-10-01 08:30:00 UTC", datetime(2026, 10, 1, 8, 30, tzinfo=UTC)),
        ({"type": "timestamp"}, "2026-10-01T08:30GMT", datetime(2026, 10, 1, 8, 30, tzinfo=UTC)),
        ({"type": "date"}, "2026-10-01 00:00:00 UTC", date(2026, 10, 1)),
        ({"type": "date", "format": "%d.%m.%Y"}, "1.10.2026", date(2026, 10, 1)),
        ({"type": "date", "format": "%m/%d/%y"}, "10/01/68", date(2068, 10, 1)),
        ({"type": "date", "format": "%d-%b-%y"}, "01-OCT-69", date(1969, 10, 1)),
        ({"type": "date", "format": "%B %d, %Y"}, "September 3, 2026", date(2026, 9, 3)),
        ({"type": "timestamp", "format": "%Y%m%d%H%M%S"}, "20261001083000", datetime(2026, 10, 1, 8, 30, tzinfo=UTC)),
        (
            {"type": "timestamp", "format": "%d/%m/%Y %I:%M %p"},
            "1/10/2026 12:05 am",
            datetime(2026, 10, 1, 0, 5, tzinfo=UTC),
        ),
        (
            {"type": "timestamp", "format": "%Y-%m-%d %H:%M:%S.%f %z"},
            "2026-10-01 08:30:00.5 +0200",
            datetime(2026, 10, 1, 6, 30, 0, 500000, tzinfo=UTC),
        ),
        ({"type": "timestamp", "timezone": "Europe/Berlin"}, "2026-07-01T12:00", datetime(2026, 7, 1, 10, tzinfo=UTC)),
        (
            {"type": "timestamp", "timezone": "Europe/Berlin"},
            "2026-10-25T02:30Z",
            datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
        ),
    ],
)
def test_what_a_column_says_about_its_cells_is_how_they_are_read(
    column: dict[str, str], text: str, value: object
) -> None:
    assert cast_one(text, **column) == ([value], [])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ({"type": "decimal(10, 2)"}, "1.005"),
        ({"type": "decimal(10, 2)"}, "123456789"),
        ({"type": "decimal(10, 2)"}, "1e999999999"),
        ({"type": "decimal(10, 2)"}, "1e-999999999"),
        ({"type": "decimal(10, 2)"}, "nan"),
        ({"type": "decimal(10, 2)"}, "1_0"),
        ({"type": "uuid"}, "550e8400-e29b-41d4-a716-44665544000"),
        ({"type": "json"}, '{"a": 1, "a": 2}'),
        ({"type": "json"}, "{'a': 1}"),
        ({"type": "json"}, "NaN"),
        ({"type": "json"}, '"\\u0000"'),
        ({"type": "date", "format": "%d.%m.%Y"}, "31.02.2026"),
        ({"type": "date", "format": "%d.%m.%Y"}, "2026-10-01"),
        ({"type": "date", "format": "%d.%m.%Y"}, "01.10.26"),
        ({"type": "timestamp", "format": "%Y-%m-%d %I:%M %p"}, "2026-10-01 13:00 PM"),
        ({"type": "timestamp", "timezone": "Europe/Berlin"}, "2026-10-25T02:30:00"),
        ({"type": "timestamp", "timezone": "Europe/Berlin"}, "2026-03-29T02:30:00"),
    ],
)
def test_what_is_not_as_the_column_says_is_a_reject(column: dict[str, str], text: str) -> None:
    values, rejects = cast_one(text, **column)
    assert values == []
    assert text in rejects[0].reasons["cell"]


@pytest.mark.parametrize(
    ("point", "thousands", "text", "value"),
    [
        (",", "", "1234,5", 1234.5),
        (",", "", "1.5", None),
        (",", ".", "1.234.567,5", 1234567.5),
        (",", ".", "1.5", None),
        (",", ".", "12.34", None),
        (".", ",", "12,34,567.5", 1234567.5),  # lakhs and crores
        (".", ",", "1,5", None),
        (",", " ", "1\u202f234\u00a0567,5", 1234567.5),
        (".", "'", "1'234\u2019567.5", 1234567.5),
        (".", "_", "1_000", 1000.0),
    ],
)
def test_marks_of_numbers_are_read_where_they_belong(
    point: str, thousands: str, text: str, value: float | None
) -> None:
    writing = Writing(decimal_mark=point, thousands_mark=thousands)
    values, rejects = cast_one(text, writing, type="number")
    assert (values, len(rejects)) == (([value], 0) if value is not None else ([], 1))


def test_spellings_of_a_missing_value_are_those_of_the_job() -> None:
    writing = Writing(missing=("NA", "\\N"))
    assert [cast_one(text, writing)[0] for text in ("NA", " \\N ", "NULL", "na")] == [[None], [None], ["NULL"], ["na"]]
    assert cast_one("NA", writing, type="integer", required=True)[1][0].reasons == {"cell": "is missing"}


@pytest.mark.parametrize(
    ("text", "rounded"),
    [
        ("0.1", False),
        ("123456789012345.67", False),
        ("1000000000000000000000000", False),
        ("123456789012345678.12", True),
        ("0.1000000000000000055511151231257827", True),
    ],
)
def test_a_number_with_more_digits_than_a_double_is_noted(text: str, *, rounded: bool) -> None:
    frame = pl.DataFrame({"_row": [7], "cell": [text]})
    table, _ = cast(frame, [Column(name="cell", type="number")])
    assert rounded_of(table.schema.metadata) == ({"cell": 7} if rounded else {})


@settings(max_examples=60, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_a_decimal_is_kept_exactly_or_rejected(number: Decimal) -> None:
    values, rejects = cast_one(str(number), type="decimal(20, 4)")
    assert values == ([number] if abs(number) < 10**16 else [])
    assert len(values) + len(rejects) == 1


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
@given(
    st.text(max_size=30), st.sampled_from(["text", "integer", "number", "boolean", "date", "timestamp", "uuid", "json"])
)
def test_any_cell_is_either_typed_or_rejected(text: str, kind: str) -> None:
    values, rejects = cast_one(text, type=kind)
    assert len(values) + len(rejects) == 1

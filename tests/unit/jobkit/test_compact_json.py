"""The fast reader and writer of JSON: the values of Python's own, whatever they are."""

import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit import compact_json

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.text(st.characters()))
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=20
)


def stocks(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def same(one: object, other: object) -> bool:
    """Equal, of the same types, and NaN where the other is NaN."""
    return repr(one) == repr(other)


@given(VALUES)
def test_what_is_written_is_read_as_the_same_value_by_both(value: object) -> None:
    expected = json.loads(stocks(value))
    text = compact_json.encode(value)
    assert same(json.loads(text), expected)
    assert same(compact_json.decode(text), expected)
    assert same(compact_json.decode(stocks(value)), expected)


@given(VALUES)
def test_ascii_is_written_with_the_same_bytes_but_for_the_exponents_of_numbers(value: object) -> None:
    ascii_only = json.loads(stocks(value).decode().replace("\\u", "u"))
    if "e" not in repr(ascii_only) and "nan" not in repr(ascii_only):
        assert compact_json.encode(ascii_only) == stocks(ascii_only)


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": -math.inf}, 2**64, -(2**63) - 1, "\ud800", {1: "one"}])
def test_what_orjson_changes_or_refuses_is_written_by_json(value: object) -> None:
    assert compact_json.encode(value) == stocks(value)


@pytest.mark.parametrize(
    "text",
    [b"18446744073709551616", b"-9223372036854775809", b'{"n":1234567890123456789012}', b"1e400", b'"\\ud800"', b"NaN"],
)
def test_what_orjson_would_read_as_something_else_is_read_by_json(text: bytes) -> None:
    assert same(compact_json.decode(text), json.loads(text))


def test_orjson_alone_would_change_numbers() -> None:
    """Why the module does not simply call it."""
    assert orjson.dumps(math.nan) == b"null"
    assert orjson.loads(b"18446744073709551616") == 1.8446744073709552e19


@pytest.mark.parametrize("text", [b"{", b"", b"\xff", b"[1,]", b"nul"])
def test_what_is_no_json_is_refused_in_the_words_of_json(text: bytes) -> None:
    with pytest.raises(ValueError) as ours:  # noqa: PT011  whatever json says
        compact_json.decode(text)
    with pytest.raises(ValueError) as stock:  # noqa: PT011  the same
        json.loads(text)
    assert str(ours.value) == str(stock.value)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object()])
def test_what_json_cannot_write_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        compact_json.encode(value)

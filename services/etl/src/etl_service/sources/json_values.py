"""JSON whose numbers keep the digits that they were written with."""

import json
from collections.abc import Iterable
from decimal import Decimal

#: Digits of the largest exponent of a number that is written out.
_LARGEST_EXPONENT = 100


class Digits(str):
    """A JSON number, as it is written."""

    __slots__ = ()


def parse(text: str) -> object:
    """Return the value of a JSON text; numbers are ``Digits``.

    Raises:
        ValueError: it is not JSON (RFC 8259), names a field twice in one object, or is nested too deeply.
    """
    try:
        value = json.loads(
            text, parse_int=Digits, parse_float=Digits, parse_constant=_no_constant, object_pairs_hook=_object
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg} at character {error.pos + 1}") from error
    except UnicodeEncodeError as error:
        raise ValueError("is not valid JSON: holds half of a surrogate pair") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    return value


def text_of(value: object) -> str:
    """Return a parsed value as JSON again, its numbers as they were written."""
    if isinstance(value, Digits):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(text_of(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def written_out(digits: str) -> str:
    """Return a number without an exponent, ``1e3`` as ``1000``; as it is if that would be too long."""
    if "e" not in digits and "E" not in digits:
        return digits
    number = Decimal(digits)
    if not number.is_finite() or abs(number.adjusted()) > _LARGEST_EXPONENT:
        return digits
    return format(number, "f")


def _no_constant(name: str) -> object:
    raise ValueError(f"is not valid JSON: {name} is not a JSON value")


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    pairs = list(pairs)
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names the field {twice[:100]!r} twice")
    return record

"""Bodies that are no message."""

import gzip
import json
import pickle

from hostile import TOO_LARGE, UNDECODABLE, Draft, Kind, body, properties, text

MIB = 1024 * 1024
#: Deeper than any parser's stack.
DEEP = 100_000


def _good(d: Draft) -> bytes:
    return json.dumps(d.fields).encode()


def _zipped(d: Draft) -> None:
    d.body = gzip.compress(_good(d))
    properties(content_encoding="gzip")(d)


def _cut(d: Draft) -> bytes:
    whole = _good(d)
    return whole[: d.draw.randrange(1, len(whole))]


def _one_byte_wrong(d: Draft) -> bytes:
    # Outside of a string any of these breaks the grammar, and inside one they are control characters or no UTF-8.
    whole = bytearray(_good(d))
    whole[d.draw.randrange(len(whole))] = d.draw.choice((0x00, 0x01, 0xC0, 0xFF))
    return bytes(whole)


def _kwargs(value: str) -> Kind:
    return Kind(
        f"kwargs of {value[:12]}… {len(value):,} long",
        UNDECODABLE,
        text(lambda good: f'{good[:-1]}, "kwargs": {value}}}'),
        rarity=10,
    )


NONSENSE = (
    Kind("an empty body", UNDECODABLE, body(lambda _: b"")),
    Kind("random bytes", UNDECODABLE, body(lambda d: b"\xff" + d.draw.randbytes(d.draw.randrange(1, 400)))),
    Kind("a byte wrong", UNDECODABLE, body(_one_byte_wrong)),
    Kind("cut off", UNDECODABLE, body(_cut)),
    Kind("two messages in one", UNDECODABLE, body(lambda d: _good(d) * 2)),
    Kind("UTF-8 cut in a character", UNDECODABLE, body(lambda d: _good(d)[:-1] + b'"\xe2\x82')),
    Kind("UTF-8 overlong", UNDECODABLE, body(lambda d: _good(d).replace(b'"args"', b'"\xc0\xaf"'))),
    Kind("not JSON: a pickle", UNDECODABLE, body(lambda d: pickle.dumps(d.fields))),
    Kind("not JSON: markup", UNDECODABLE, body(lambda _: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a/>')),
    Kind("not JSON: gzip", UNDECODABLE, _zipped),
    *(
        Kind(f"JSON, but {value}", UNDECODABLE, body(lambda _, v=value: v.encode()))  # type: ignore[misc]  # a default argument binds it now
        for value in ("null", "true", "42", "NaN", "-Infinity", '"text"', "[]", '[{"actor_name": "x"}]', "{}")
    ),
    Kind("an integer of 5,001 digits", UNDECODABLE, body(lambda _: b"1" + b"0" * 5_000)),
    Kind("arrays 100,000 deep", UNDECODABLE, body(lambda _: b"[" * DEEP + b"]" * DEEP), rarity=10),
    Kind("arrays 100,000 deep, unclosed", UNDECODABLE, body(lambda _: b"[" * DEEP), rarity=10),
    Kind("objects 100,000 deep", UNDECODABLE, body(lambda _: b'{"a":' * DEEP + b"1" + b"}" * DEEP), rarity=20),
    _kwargs('{"a":' + "[" * DEEP + "]" * DEEP + "}"),
    *(_kwargs('{"a":' + "[" * depth + "]" * depth + "}") for depth in (200, 500, 850, 900, 925, 950, 975)),
    _kwargs('{"a": 1' + "0" * 5_000 + "}"),
    Kind("2 MB of random text", UNDECODABLE, body(lambda d: d.draw.randbytes(MIB - 100).hex().encode()), rarity=100),
    Kind("3 MB", TOO_LARGE, body(lambda d: b'{"a": "' + b"x" * 3 * MIB + b'"}'), rarity=100),
)

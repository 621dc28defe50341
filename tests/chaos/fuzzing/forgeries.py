"""Envelopes with wrong fields, ids that should never be, and options that try to steer the worker."""

import json

from hostile import (
    LEGAL,
    NEWER_CONTRACT,
    UNDECODABLE,
    UNKNOWN_ACTOR,
    Draft,
    Edit,
    Kind,
    envelope,
    option,
    text,
    without,
)

HUGE = 10**4000
LONG = "x" * 100_000
#: Characters that no id may hold: they would end a line of a log, a key of the store, or a reader's patience.
UNPRINTABLE = {
    "a newline": "id\r\nSET x y",
    "a NUL": "id\x00",
    "an escape": "id\x1b[2J",
    "a surrogate": "id\ud800",
    "a mark that turns the text": "id\u202e",
    "a blank line": "\u2028",
}
NO_QUEUES: tuple[object, ...] = (None, 7, "elsewhere", "../../etc", {})
OTHER_VERSIONS: tuple[object, ...] = (2, HUGE, "1", "\ud800", None, 1.0, float("nan"), [])


def _wrong(name: str, *values: object) -> list[Kind]:
    return [
        Kind(f"{name} is {json.dumps(value)[:24]}", UNDECODABLE, envelope(name, value))
        for value in (None, True, 1.5, float("nan"), float("inf"), *values)
    ]


def _steer(name: str, *values: object) -> list[Kind]:
    return [Kind(f"option {name}={json.dumps(value)[:40]}", LEGAL, option(name, value), rarity=20) for value in values]


def _foreign(d: Draft) -> None:
    d.fields["actor_name"] = d.target.foreign


def _id(identifier: str) -> Edit:
    def edit(d: Draft) -> None:
        d.token = d.fields["message_id"] = d.properties.message_id = identifier + d.token

    return edit


FIELDS = (
    *_wrong("actor_name", 7, [], {}),
    *_wrong("message_id", 7, [], {}, "", "y" * 201, "é" * 101, "z" * 10_000),
    *_wrong("args", 7, "[]", {}),
    *_wrong("kwargs", 7, "{}", []),
    *_wrong("options", 7, "{}", []),
    *_wrong("message_timestamp", "now", [], {}, -1, 2**63, HUGE),
    Kind("no actor_name", UNDECODABLE, without("actor_name")),
    Kind("no message_id", UNDECODABLE, without("message_id")),
    *(Kind(f"an id with {what}", UNDECODABLE, envelope("message_id", value)) for what, value in UNPRINTABLE.items()),
    Kind("an argument named self", UNDECODABLE, envelope("kwargs", {"self": 1})),
    Kind("an unknown actor", UNKNOWN_ACTOR, envelope("actor_name", "nobody")),
    Kind("an actor's name 100 kB long", UNKNOWN_ACTOR, envelope("actor_name", LONG), rarity=10),
    Kind("an actor's name with a surrogate", UNKNOWN_ACTOR, envelope("actor_name", "\ud800\x00\n")),
    Kind("an actor of Python's own", UNKNOWN_ACTOR, envelope("actor_name", "__class__")),
    Kind("an actor of another service", UNKNOWN_ACTOR, _foreign),
    Kind("args with values", ("bad_payload",), envelope("args", ["x"] * 5_000)),
    *(
        Kind(f"queue_name is {json.dumps(value)[:20]}", LEGAL, envelope("queue_name", value), rarity=20)
        for value in NO_QUEUES
    ),
    Kind("no queue_name", LEGAL, without("queue_name"), rarity=20),
    Kind("fields that nobody knows", LEGAL, envelope("x" * 5_000, [HUGE, float("nan")]), rarity=20),
    Kind("a byte order mark", LEGAL, text(lambda good: "\ufeff" + good), rarity=20),
    Kind("an id like a pattern", LEGAL, _id("*{0}%s:jobkit:job:?[a] "), rarity=20),
    Kind("an id in other letters", LEGAL, _id("ключ-鍵-"), rarity=20),
)

STEERING = (
    *_steer("eta", 2**53, "soon", None, -1, [], {}),
    *_steer("attempts", -1, 9_999, HUGE, "3", True, None, 1.5, [], {}),
    *_steer("round", -1, HUGE, "3", True, None, 1.5, []),
    *_steer("deferred", True, "yes"),
    *_steer("throws", "ValueError", ["KeyError"], {}),
    *_steer("max_retries", 10**9),
    *_steer("retries", 10**9),
    *_steer("requeue_timestamp", "x"),
    *_steer("pipe_target", {"queue_name": "q", "actor_name": "a"}, "x"),
    *_steer("group_info", {"group_id": "g", "completion_uuid": "u"}),
    *_steer("time_limit", 1),
    *_steer("retry", 1),
    *_steer("priority", -(10**9)),
    *_steer("traceparent", "garbage", "00-" + "f" * 32 + "-" + "0" * 16 + "-ff", {"a": []}, HUGE, LONG, "\ud800"),
    *_steer("tracestate", "a=b," * 20_000, [], "\ud800=1"),
    *_steer("baggage", "a=" + LONG),
    *_steer("contract_version", True, 0, -HUGE),
    *(
        Kind(f"contract_version={json.dumps(value)[:20]}", NEWER_CONTRACT, option("contract_version", value))
        for value in OTHER_VERSIONS
    ),
)

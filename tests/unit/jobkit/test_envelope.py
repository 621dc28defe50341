"""A body may have been written by anybody: it becomes a message, or it is Undecodable."""

import json
from datetime import timedelta

import pika
import pytest
from dramatiq import Message
from hypothesis import given
from hypothesis import strategies as st

from jobkit.broker.envelope import contract_version, decode, properties_of
from jobkit.broker.memory import MemoryExchange
from jobkit.contracts import Job
from jobkit.errors import Undecodable
from jobkit.producer import Producer, message_for

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = ("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp")
likely_values = st.one_of(
    json_values,
    st.just("id-1"),
    st.just({}),
    st.just([]),
    st.just({"traceparent": PARENT, "eta": 1}),
    st.integers(-5, 2**70),
    st.text(st.characters(codec=None), min_size=1, max_size=250),  # lone surrogates included
)
near_messages = st.fixed_dictionaries({}, optional=dict.fromkeys(names, likely_values))


def body(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "queue_name": "email",
        "actor_name": "send_email",
        "args": [],
        "kwargs": {"to": "a@example.org"},
        "options": {},
        "message_id": "id-1",
        "message_timestamp": 1_700_000_000_123,
    }
    return json.dumps({**fields, **changes}).encode()


def read(written: bytes, headers: dict[str, object] | None = None) -> Message[object]:
    return decode(written, pika.BasicProperties(headers=headers), "email.high")


def on_the_wire(properties: pika.BasicProperties) -> pika.BasicProperties:
    decoded = pika.BasicProperties()
    decoded.decode(b"".join(properties.encode()))
    return decoded


def check_that_it_can_travel_on(written: bytes, headers: dict[str, object] | None = None) -> None:
    try:
        message = read(written, headers)
    except Undecodable:
        return
    assert message.queue_name == "email.high"
    assert not {"eta", "throws"} & message.options.keys()
    properties = properties_of(message, "worker")
    again = decode(message.encode(), on_the_wire(properties), "email.high")
    assert again.message_id == message.message_id == on_the_wire(properties).message_id
    assert len(b"".join(properties.encode())) < 8_192


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_undecodable_and_nothing_else(written: bytes) -> None:
    check_that_it_can_travel_on(written)


@given(json_values)
def test_arbitrary_json_is_undecodable_and_nothing_else(value: object) -> None:
    check_that_it_can_travel_on(json.dumps(value).encode())


@given(near_messages, st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), json_values))
def test_whatever_decodes_can_be_published_again(fields: dict[str, object], headers: dict[str, object]) -> None:
    check_that_it_can_travel_on(json.dumps(fields).encode(), headers)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"message_timestamp": ' + b"1" * 5_000 + b"}", "not JSON"),
        (b"null", "a JSON NoneType"),
        (b"{}", "actor_name is missing"),
        (body(actor_name=7), "actor_name is a int"),
        (body(kwargs=[]), "kwargs is a list"),
        (body(kwargs=None), "kwargs is a NoneType"),
        (body(args={}), "args is a dict"),
        (body(options="x"), "options is a str"),
        (body(message_id=""), "message_id"),
        (body(message_id="a\nb"), "message_id"),
        (body(message_id="x" * 201), "message_id"),
        (body(message_id="é" * 101), "message_id"),
        (body(message_id="\ud800"), "message_id"),
        (body(message_timestamp=True), "message_timestamp is a bool"),
        (body(message_timestamp=1.5), "message_timestamp is a float"),
        (body(message_timestamp=-1), "message_timestamp"),
        (body(message_timestamp=2**64), "message_timestamp"),
        (body(kwargs={"self": 1}), "'self'"),
        (body(kwargs={"a": json.loads("[" * 99 + "]" * 99)}), "more than 100 deep"),
        (body()[:-1] + b', "x": ' + b'{"a":[' * 470 + b"]}" * 470 + b"}", "more than 100 deep"),
    ],
)
def test_an_undecodable_body_says_what_is_wrong(written: bytes, says: str) -> None:
    with pytest.raises(Undecodable) as refusal:
        read(written)
    assert says in str(refusal.value)


def test_the_queue_is_the_one_that_it_came_from() -> None:
    assert read(body(queue_name="elsewhere")).queue_name == "email.high"


def test_a_sender_cannot_make_the_worker_hold_the_message_or_name_expected_exceptions() -> None:
    message = read(body(options={"eta": 99_999_999_999_999, "throws": "ValueError", "attempts": 2}))
    assert message.options == {"attempts": 2}


@pytest.mark.parametrize("attempts", [True, -1, 10_000, 10**400, "2", 2.0, None, [], {}])
def test_a_sender_cannot_give_a_number_of_attempts_that_the_store_does_not_take(attempts: object) -> None:
    assert read(body(options={"attempts": attempts})).options == {}


@pytest.mark.parametrize("job_round", [True, -1, 2**31, "2", 2.0, None, [], {}])
def test_a_sender_cannot_give_a_round_that_the_store_does_not_take(job_round: object) -> None:
    assert read(body(options={"job_round": job_round})).options == {}
    assert read(body(options={"job_round": 2})).options == {"job_round": 2}


def test_a_dead_letter_that_comes_back_has_all_its_attempts_in_its_next_round() -> None:
    waits = {"attempts": 4, "deferred": True, "excused": 60, "refused": 60}
    by_the_broker: dict[str, object] = {"x-death": [{"reason": "delivery_limit", "queue": "email"}]}
    assert read(body(options={**waits, "delay": 5}), by_the_broker).options == {"delay": 5, "job_round": 1}
    moved = read(body(options={"job_round": 2}), {"failure-reason": "poison", "failure-round": 2})
    assert moved.options == {"job_round": 3}
    assert read(moved.encode()).options == {"job_round": 3}, "a copy of it needs no headers"


def test_a_payload_may_be_nested_as_deep_as_is_promised() -> None:
    assert read(body(kwargs={"a": json.loads("[" * 98 + "]" * 98)})).kwargs["a"]


def test_a_trace_or_baggage_that_is_too_long_is_left_out() -> None:
    long = "x" * 130_000
    message = read(body(options={"traceparent": long, "baggage": long, "tracestate": "a=1"}), {"tracestate": long})
    assert message.options == {"tracestate": "a=1"}
    assert read(body(options={"baggage": "a=1"})).options == {"baggage": "a=1"}


def test_a_plain_client_may_leave_out_all_but_actor_and_id() -> None:
    message = read(b'{"actor_name": "send_email", "message_id": "x"}')
    assert (message.args, message.kwargs, message.options, message.message_timestamp) == ((), {}, {}, 0)


def test_the_trace_in_the_headers_wins_over_the_one_in_the_body() -> None:
    message = read(body(options={"traceparent": "old"}), {"traceparent": PARENT, "tracestate": "a=1"})
    assert (message.options["traceparent"], message.options["tracestate"]) == (PARENT, "a=1")


def test_other_systems_find_what_they_look_for_in_the_properties() -> None:
    properties = on_the_wire(properties_of(read(body(options={"traceparent": PARENT})), "email-service"))
    assert properties.message_id == "id-1"
    assert properties.type == "send_email"
    assert properties.app_id == "email-service"
    assert properties.content_type == "application/json"
    assert properties.content_encoding == "utf-8"
    assert properties.delivery_mode == 2
    assert properties.timestamp == 1_700_000_000
    assert properties.headers == {"traceparent": PARENT}


@pytest.mark.parametrize("header", [7, {"a": 1}, "x" * 513, "\ud800", None, [PARENT]])
def test_a_trace_header_that_is_none_is_not_passed_on(header: object) -> None:
    message = read(body(options={"traceparent": header}))
    assert properties_of(message, "worker").headers == {}


class Newer(Job, queue="email", lanes=("high", "normal"), version=4):
    """A contract with a history."""

    text: str = ""


class Homeless(Job):
    """A contract that names no queue."""


def test_a_job_s_message_is_an_ordinary_dramatiq_message_with_the_payload_in_kwargs() -> None:
    message = message_for(Newer(text="x"), lane="high", key=None, job_id="id-9")
    fields = json.loads(message.encode())
    assert fields["queue_name"] == "email.high"
    assert fields["actor_name"] == "newer"
    assert fields["args"] == []
    assert fields["kwargs"] == {"text": "x"}
    assert fields["message_id"] == "id-9"
    assert contract_version(message) == 4


def test_the_same_key_is_the_same_job_and_another_is_not() -> None:
    ids = [message_for(Newer(), lane="normal", key=key, job_id=None).message_id for key in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]


def test_without_a_key_every_send_is_a_job_of_its_own() -> None:
    assert len({message_for(Newer(), lane="normal", key=None, job_id=None).message_id for _ in range(50)}) == 50


@pytest.mark.parametrize("job_id", ["", "x" * 201, "é" * 101, "a\tb", "\ud800"])
def test_an_id_that_no_worker_would_take_is_refused_at_the_sender(job_id: str) -> None:
    with pytest.raises(ValueError, match="job_id="):
        Producer.over(MemoryExchange()).send(Newer(), job_id=job_id, delay=timedelta(0))


def test_a_job_without_a_queue_and_a_key_beside_an_id_are_refused() -> None:
    with pytest.raises(TypeError, match="Homeless names no queue"):
        message_for(Homeless(), lane="normal", key=None, job_id=None)
    with pytest.raises(ValueError, match="not both"):
        message_for(Newer(), lane="normal", key="a", job_id="b")

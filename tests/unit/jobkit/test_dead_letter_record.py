"""The record of a death fits into AMQP headers whatever the exception carries, and comes back as it was."""

import json

import pika
import pytest
from dramatiq import Message
from hypothesis import given
from hypothesis import strategies as st

from jobkit.broker.connection import FRAME_MAX
from jobkit.broker.envelope import properties_of
from jobkit.deadletters import Failure, Reason, has_been_dead, round_after, sent_again
from jobkit.rounds import END_OF_ROUNDS, ROUND_OPTION

MESSAGE = Message(  # type: ignore[var-annotated]  # its result has no type
    queue_name="email", actor_name="send_email", args=(), kwargs={}, options={}, message_id="x", message_timestamp=1
)


def raised(error: BaseException) -> BaseException:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    return caught.value


def failure_of(error: BaseException, actor: str = "send_email") -> Failure:
    return Failure.of(error, Reason.EXHAUSTED, actor=actor, queue="email.high", died_at=1_700_000_000_500)


def over_the_wire(failure: Failure) -> tuple[Failure, int]:
    encoded = b"".join(properties_of(MESSAGE, "worker", failure.headers()).encode())
    decoded = pika.BasicProperties()
    decoded.decode(encoded)
    return Failure.from_headers(decoded.headers), len(encoded)


def test_a_record_comes_back_from_the_headers_as_it_was() -> None:
    failure = Failure.of(
        raised(ValueError("no such account: ä €")),
        Reason.PERMANENT,
        actor="send_email",
        queue="email.high",
        died_at=1_700_000_000_500,
        attempts=3,
        sent_at=1_700_000_000_000,
        first_failed_at=1_700_000_000_100,
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    assert over_the_wire(failure)[0] == failure
    assert failure.type == "ValueError"
    assert failure.message == "no such account: ä €"
    assert "in fail" in failure.traceback


@pytest.mark.parametrize("text", ["x" * 1_000_000, "€" * 200_000, "\U0001f600" * 200_000, "\ud800" * 100_000])
def test_a_huge_failure_fits_into_a_header_frame(text: str) -> None:
    chained = ValueError(text)
    chained.__cause__ = raised(KeyError(text))
    failure, size = over_the_wire(failure_of(raised(chained)))
    assert size < FRAME_MAX
    assert failure.type == "ValueError"
    assert failure.message.startswith(text[:1].encode(errors="backslashreplace").decode())


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_of_an_exception_can_travel(text: str) -> None:
    for error in (ValueError(text), raised(ValueError(text))):
        failure = failure_of(error)
        assert over_the_wire(failure)[0] == failure


def test_an_exception_that_has_no_text_is_recorded_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    for error in (Mute(), raised(Mute())):
        assert failure_of(error).message == "<Mute has no text>"


def test_the_end_of_a_long_traceback_is_kept_because_it_says_where() -> None:
    chained = None
    for n in range(40):
        error = ValueError(f"number {n} " + "y" * 1000)
        error.__cause__ = chained
        chained = raised(error)
    assert chained is not None
    assert failure_of(chained).traceback.rstrip().endswith("y")
    assert "number 39" in failure_of(chained).traceback


def test_failures_that_are_alike_have_one_fingerprint() -> None:
    def look_up(account: int) -> None:
        raise ValueError(f"account {account}")

    def fingerprint(account: int, actor: str = "send_email") -> str:
        with pytest.raises(ValueError, match="account") as caught:
            look_up(account)
        return failure_of(caught.value, actor).fingerprint

    prints = {fingerprint(account) for account in range(3)}
    assert len(prints) == 1
    assert fingerprint(1, actor="other") not in prints
    assert failure_of(raised(ValueError("account 1"))).fingerprint not in prints
    assert failure_of(raised(KeyError("account 1"))).fingerprint not in prints
    assert failure_of(ValueError("row 17")).fingerprint == failure_of(ValueError("row 18")).fingerprint


def test_a_job_that_died_at_once_failed_first_when_it_died() -> None:
    assert failure_of(ValueError()).first_failed_at == 1_700_000_000_500


LADDER = {"reason": "expired", "queue": "jobkit.delay.02", "exchange": "jobkit.delay.02", "count": 1}


DUE = {"reason": "expired", "queue": "due.email.high", "exchange": "jobkit.delivery", "count": 1}


def test_a_message_that_was_due_was_not_dead() -> None:
    assert not has_been_dead({"x-death": [DUE, LADDER]})
    assert has_been_dead({"x-death": [DUE, {"reason": "delivery_limit", "queue": "email.high"}]})


@pytest.mark.parametrize("due", ["", "due."], ids=["by an earlier version", "by this version"])
def test_a_delayed_message_that_no_queue_takes_tells_its_queue(due: str) -> None:
    levels = [
        {**LADDER, "queue": f"jobkit.delay.0{level}", "routing-keys": [f"{'0.' * 25}1.0.1.{due}email.high"]}
        for level in (0, 2)
    ]
    failure = Failure.from_headers({"x-death": levels}, "jobkit.dlq")
    assert (failure.reason, failure.queue) == ("unroutable", "email.high")
    assert "no queue takes messages for email.high" in failure.message


@pytest.mark.parametrize("keys", [None, [], [7], ["email"], "0.1.email"])
def test_what_a_delayed_message_says_of_its_way_may_be_anything(keys: object) -> None:
    failure = Failure.from_headers({"x-death": [{**LADDER, "routing-keys": keys}]}, "jobkit.dlq")
    assert (failure.reason, failure.queue) == ("unknown", "jobkit.dlq")


def test_a_message_that_fell_through_the_ladder_was_not_dead() -> None:
    assert not has_been_dead(None)
    assert not has_been_dead({})
    assert not has_been_dead({"x-death": [LADDER, {**LADDER, "queue": "jobkit.delay.00"}]})
    assert not has_been_dead({"x-death": "nonsense"})
    assert not has_been_dead({"x-death": ["nonsense", {}]})


@pytest.mark.parametrize("reason", ["delivery_limit", "rejected", "maxlen", "expired"])
def test_what_the_broker_itself_has_dead_lettered_was_dead(reason: str) -> None:
    headers = {"x-death": [LADDER, {"reason": reason, "queue": "email", "count": 1}]}
    assert has_been_dead(headers)
    failure = Failure.from_headers(headers)
    assert (failure.reason, failure.queue) == (reason, "email")
    assert reason in failure.message
    assert failure.fingerprint == f"broker:{reason}"


def test_what_a_worker_has_dead_lettered_was_dead() -> None:
    assert has_been_dead(failure_of(ValueError()).headers())


def test_headers_that_say_nothing_give_a_record_that_says_so() -> None:
    nothing: list[dict[str, object] | None] = [None, {}, {"x-death": []}]
    for headers in nothing:
        failure = Failure.from_headers(headers, "email")
        assert (failure.reason, failure.queue, failure.attempts) == ("unknown", "email", 0)


def test_a_record_with_missing_headers_has_empty_values() -> None:
    failure = Failure.from_headers({"failure-reason": "permanent", "failure-attempts": None})
    assert (failure.reason, failure.message, failure.attempts, failure.died_at) == ("permanent", "", 0, 0)


def test_a_record_that_somebody_has_forged_still_holds_the_types_that_its_readers_rely_on() -> None:
    forged = {"failure-reason": [{}], "failure-attempts": "many", "failure-queue": 7, "failure-died-at": True}
    failure = Failure.from_headers(forged)
    assert (failure.reason, failure.attempts, failure.queue, failure.died_at) == ("[{}]", 0, "7", 0)


def died_in(job_round: int) -> dict[str, object]:
    """The headers of a dead letter of that round."""
    return {"failure-reason": "permanent", "failure-round": job_round}


OLD = {"failure-reason": "permanent", "failure-died-at": 1_700_000_000_000}  #: Of version 0.1.

REJECTED = {"reason": "rejected", "queue": "email", "count": 1}

BY_THE_BROKER: dict[str, object] = {"x-death": [REJECTED, LADDER]}


@pytest.mark.parametrize(
    ("said", "headers", "round_now"),
    [
        pytest.param(0, died_in(0), 1, id="moved as it is"),
        pytest.param(3, died_in(3), 4, id="moved as it is after many rounds"),
        pytest.param(1, died_in(0), 1, id="sent again"),
        pytest.param(0, died_in(3), 4, id="one whose body could not be raised"),
        pytest.param(0, OLD, 1, id="of version 0.1"),
        pytest.param(2, OLD, 3, id="died in version 0.1 after a rollback"),
        pytest.param(0, BY_THE_BROKER, 1, id="dead-lettered by RabbitMQ"),
        pytest.param(2, {"x-death": [{**REJECTED, "count": 2}]}, 4, id="twice, and each time moved as it is"),
        pytest.param(0, {**died_in(0), **BY_THE_BROKER}, 2, id="moved as it is, then dead-lettered by RabbitMQ"),
        pytest.param(1, {**died_in(0), **BY_THE_BROKER}, 2, id="sent again, then dead-lettered by RabbitMQ"),
        pytest.param(0, {"x-death": [{**REJECTED, "count": "many"}]}, 1, id="forged, a count"),
        pytest.param(0, {"failure-reason": "", "failure-round": "many"}, 1, id="forged"),
        pytest.param(0, {"failure-reason": "", "failure-round": -1}, 1, id="forged, negative"),
        pytest.param(0, {"failure-reason": "", "failure-round": True}, 1, id="forged, a truth value"),
        pytest.param(0, died_in(END_OF_ROUNDS - 1), END_OF_ROUNDS - 1, id="no round is above the last one"),
    ],
)
def test_a_dead_letter_that_comes_back_is_of_the_round_after_its_death(
    said: int, headers: dict[str, object], round_now: int
) -> None:
    assert round_after(said, headers) == round_now


@pytest.mark.parametrize("headers", [died_in(0), died_in(4), OLD])
def test_a_dead_letter_that_is_sent_again_says_its_round_whoever_takes_it(headers: dict[str, object]) -> None:
    letter = json.dumps({"message_id": "a", "kwargs": {"text": "\ud83d\ude00 é"}}).encode()
    body, sent = sent_again(letter, headers)
    message = json.loads(body)
    assert message["kwargs"] == {"text": "\U0001f600 é"}
    assert message["options"] == {ROUND_OPTION: round_after(0, headers)}
    assert {**sent, "failure-round": None} == {**headers, "failure-round": None}, "version 0.1 looks for these"
    assert round_after(message["options"][ROUND_OPTION], sent) == round_after(0, headers), "it is raised once"
    assert sent_again(letter, headers) == (body, sent), "who repeats it sends the same message"


def test_each_send_of_what_the_broker_dead_letters_is_in_a_higher_round() -> None:
    body, headers, rounds = b"{}", BY_THE_BROKER, []
    for _ in range(3):  # from RabbitMQ 4.0 on it does not go on counting from what a client has published
        rounds.append(round_after(json.loads(body).get("options", {}).get(ROUND_OPTION, 0), headers))
        body, headers = sent_again(body, headers)
    assert rounds == sorted(set(rounds))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"7", b'{"options":[]}', b'{"options":"a"}', b"[" * 100_000])
def test_a_dead_letter_that_is_no_message_is_sent_again_as_it_is(body: bytes) -> None:
    assert sent_again(body, died_in(2)) == (body, died_in(2))
    assert round_after(0, died_in(2)) == 3, "the worker that takes it counts"


def test_what_never_died_stays_in_its_round() -> None:
    assert sent_again(b'{"options":{}}', {"x-death": [LADDER]}) == (b'{"options":{}}', {"x-death": [LADDER]})
    assert sent_again(b'{"options":{}}', None) == (b'{"options":{}}', {})

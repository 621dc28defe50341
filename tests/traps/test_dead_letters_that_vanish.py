"""Trap 9: a job has died, and somebody wants to know of what, a week later."""

import json
from urllib.parse import unquote

import dramatiq.brokers.rabbitmq
import pika
import pytest
from in_process import Ours, Settled, Stock, until
from queues import depth, wait_for_dead_letter

from jobkit.retry import fixed
from local_stack.rabbitmq import RabbitMQ


def fail(_name: str) -> None:
    raise RuntimeError("the reason why it died")


def arguments_of(rabbitmq: RabbitMQ, url: str, queue: str) -> dict[str, object]:
    """What RabbitMQ was told when the queue was made, and by policies."""
    vhost = unquote(url.rsplit("/", 1)[1])
    found = rabbitmq.call("GET", f"/api/queues/{vhost}/{queue}")
    assert isinstance(found, dict)
    return {**found["arguments"], **(found.get("effective_policy_definition") or {})}


def test_stock_keeps_the_body_without_the_last_failure(stock: Stock, vhost_url: str) -> None:
    def fail_by_number(_name: str) -> None:
        raise RuntimeError(f"failure {len(stock.runs)}")

    stock.do = fail_by_number
    with stock.working():
        stock.send("doomed")
        until(lambda: len(stock.runs) == 3, "the last attempt runs")
        until(lambda: depth(vhost_url, "work.XQ") == 1, "it is in the dead-letter queue")
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        _, properties, body = connection.channel().basic_get("work.XQ")
    assert properties is not None
    (death,) = properties.headers["x-death"]
    assert death["reason"] == "rejected"
    kept = f"{body!r} {properties!r}"
    assert "failure 2" in kept, "why it was retried"
    assert "failure 3" not in kept, "why it died"


def test_stock_drops_its_dead_letters_without_a_word_when_their_time_is_over(
    stock: Stock, rabbitmq: RabbitMQ, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dramatiq.brokers.rabbitmq.DEAD_MESSAGE_TTL == 7 * 24 * 3600 * 1000
    monkeypatch.setattr(dramatiq.brokers.rabbitmq, "DEAD_MESSAGE_TTL", 500)
    settled = Settled()
    stock.broker.add_middleware(settled)
    stock.do = fail
    with stock.working():
        job = stock.send("doomed")
        until(lambda: settled.rejected == [job], "the job is rejected")
        until(lambda: depth(vhost_url, "work.XQ") == 0, "the dead-letter queue is empty")
    told = arguments_of(rabbitmq, vhost_url, "work.XQ")
    assert told.pop("x-queue-type", "classic") == "classic"  # RabbitMQ 4.x says so, 3.x does not
    assert told == {"x-message-ttl": 500}


def test_a_dead_letter_says_why_and_is_kept_until_somebody_decides(
    vhost_url: str, redis_url: str, rabbitmq: RabbitMQ
) -> None:
    ours = Ours(vhost_url, redis_url, retry=fixed(0.05, attempts=1))
    ours.do = fail
    with ours.working():
        job = ours.send("doomed")
        properties, failure, body = wait_for_dead_letter(vhost_url, "work")
    assert properties.message_id == job
    assert json.loads(body)["kwargs"] == {"name": "doomed"}
    assert (failure.type, failure.message, failure.attempts) == ("RuntimeError", "the reason why it died", 1)
    assert "in fail" in failure.traceback
    told = arguments_of(rabbitmq, vhost_url, "work.dlq")
    assert not {"x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "message-ttl"} & set(told)

"""Looking at a broker from outside, with a client that knows nothing of jobkit's."""

import json
import time
import uuid

import pika
import pika.exceptions

from jobkit.deadletters import Failure


def message_body(**fields: object) -> bytes:
    """The body of a Dramatiq message as a client in any language would write it."""
    message = {
        "queue_name": "probe",
        "actor_name": "probe",
        "args": [],
        "kwargs": {},
        "options": {},
        "message_id": str(uuid.uuid4()),
        "message_timestamp": int(time.time() * 1000),
    }
    return json.dumps({**message, **fields}).encode()


def publish(url: str, queue: str, *bodies: bytes, limit: float = 10) -> None:
    """Publish to the queue, which somebody makes in time; return when all are confirmed."""
    wait_for_queue(url, queue)
    deadline = time.monotonic() + limit
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        waiting = list(bodies)
        while waiting:
            try:
                channel.basic_publish("", queue, waiting[0], pika.BasicProperties(delivery_mode=2), mandatory=True)
            except pika.exceptions.NackError:  # a new quorum queue refuses until it has a leader
                assert time.monotonic() < deadline, f"{queue} took no message within {limit:g} s"
                time.sleep(0.05)
            else:
                del waiting[0]


def wait_for_queue(url: str, queue: str, limit: float = 30) -> None:
    """Return once somebody has made the queue: a client that only publishes loses what it sends before that."""
    deadline = time.monotonic() + limit
    while True:
        try:
            depth(url, queue)
        except pika.exceptions.ChannelClosedByBroker:
            assert time.monotonic() < deadline, f"nobody has made {queue} within {limit:g} s"
            time.sleep(0.05)
        else:
            return


def wait_for_dead_letter(url: str, service: str, limit: float = 30) -> tuple[pika.BasicProperties, Failure, bytes]:
    """Take the next dead letter off the service's queue."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                method, properties, body = connection.channel().basic_get(f"{service}.dlq", auto_ack=True)
        except pika.exceptions.ChannelClosedByBroker:
            method = None  # nobody has made the queue yet
        if method is not None:
            assert properties is not None
            assert body is not None
            return properties, Failure.from_headers(properties.headers), body
        time.sleep(0.1)
    raise AssertionError(f"no dead letter in {service}.dlq within {limit:g} s")


def depth(url: str, queue: str) -> int:
    """Messages that are ready in the queue."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


def wait_until_empty(url: str, *queues: str, limit: float = 30) -> None:
    """Return once no message is ready in the queues nor on its way to them, several looks in a row."""
    watched = [*queues, *(f"jobkit.delay.{level:02}" for level in range(6))]
    deadline = time.monotonic() + limit
    quiet = 0
    while quiet < 3:
        assert time.monotonic() < deadline, f"{watched} did not run empty within {limit:g} s"
        quiet = quiet + 1 if not any(depth(url, queue) for queue in watched) else 0
        time.sleep(0.1)

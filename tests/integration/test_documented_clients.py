"""What the pages say about clients without jobkit holds on RabbitMQ."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
from ledger import Ledger
from probe_service import Probe
from queues import depth, message_body
from worker_process import WorkerProcess

from jobkit.deadletters import Failure
from jobkit.producer import Producer

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/dead-letters.md"


def send_again() -> Callable[[str, str, str], int]:
    """The function as the page shows it."""
    (block,) = (
        b for b in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S) if "def send_again" in b
    )
    names: dict[str, Any] = {}  # Any: what the page defines
    exec(compile(block, str(PAGE), "exec"), names)
    function: Callable[[str, str, str], int] = names["send_again"]
    return function


def fingerprints(url: str) -> dict[str, str]:
    """The kind of failure of each dead letter, by the job's id; they stay in their queue."""
    found: dict[str, str] = {}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while (answer := channel.basic_get("probe.dlq"))[0] is not None:
            assert answer[1] is not None
            found[str(answer[1].message_id)] = Failure.from_headers(answer[1].headers).fingerprint
    return found


def test_send_again_sends_the_dead_letters_of_one_kind_and_leaves_the_others(
    tmp_path: Path, vhost_url: str, redis_url: str, producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}):
        mended = [producer.send(Probe(name=f"mended-{n}", then="permanent", once=True)).job_id for n in range(3)]
        hopeless = producer.send(Probe(name="hopeless", then="permanent")).job_id
        other = producer.send(Probe(name="other", then="fail")).job_id
        ledger.wait(lambda _: fingerprints(vhost_url).keys() == {*mended, hopeless, other}, what="the dead letters")
        kinds = fingerprints(vhost_url)
        assert kinds[other] != kinds[hopeless]

        moved = send_again()(vhost_url, "probe", kinds[hopeless])

        assert moved == 4, "one that dies again at once is sent once"
        ledger.wait_for("end", *(f"mended-{n}" for n in range(3)))
        ledger.wait(lambda _: fingerprints(vhost_url).keys() == {hopeless, other}, what="the two that stay")
        assert depth(vhost_url, "probe.dlq") == 2
    assert ledger.counts("start")["other"] == 3, "its three attempts of before"
    assert ledger.counts("start")["hopeless"] == 2


def test_a_message_that_no_queue_takes_is_returned_and_then_confirmed(vhost_url: str) -> None:
    told: list[str] = []
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        bare = channel._impl  # pika's blocking channel turns the pair into one exception
        bare.add_on_return_callback(lambda *_: told.append("returned"))
        bare.confirm_delivery(lambda frame: told.append(type(frame.method).__name__))
        body = message_body(message_id=str(uuid.uuid4()))
        bare.basic_publish("", "nobody", body, pika.BasicProperties(delivery_mode=2), mandatory=True)
        for _ in range(100):
            if len(told) == 2:
                break
            connection.process_data_events(0.1)
    assert told == ["returned", "Ack"]

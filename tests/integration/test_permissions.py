"""Least privilege: each kind of user can do its work with the permissions of docs/how-to/rabbitmq.md, and no more."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pika
import pika.exceptions
import pytest
from documentation import ROOT
from in_process import until
from ledger import Ledger
from probe_service import Probe
from queues import depth, wait_for_dead_letter, wait_until_empty
from worker_process import WorkerProcess

from jobkit.broker import ladder
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarations import declare
from jobkit.deadletters import Failure, Reason
from jobkit.producer import Producer
from jobkit.schedule.cron import cron
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.schedule import Schedule
from local_stack.rabbitmq import RabbitMQ

MINE, ALL = ["probe", "probe.high"], ["probe", "probe.high", "other"]

#: An exchange, and a key that leads from it to a queue.
WAYS = {
    "default": ("", "probe"),
    "jobs": ("probe.jobs", "probe"),
    "others' jobs": ("other.jobs", "other"),
    "dead letters": ("probe.dlx", ""),
    "others' dead letters": ("other.dlx", ""),
    "delayed": ladder.route("probe", timedelta(seconds=5)),
    "delayed, to a lane": ladder.route("probe.high", timedelta(days=300)),
    "delayed, as before due queues": ladder.route("probe", timedelta(seconds=5), due=False),
    "delayed, to others": ladder.route("other", timedelta(seconds=5)),
    "delivery": ("jobkit.delivery", "probe"),
}
READABLE = [*ALL, "probe.dlq", "other.dlq", "due.probe", "due.other", "jobkit.delay.00", "jobkit.dlq"]

DELAYED = {"delayed", "delayed, to a lane", "delayed, as before due queues"}


class Row(NamedTuple):
    """A row of the table: permissions, and what they are for."""

    configure: str
    write: str
    read: str
    topic: str
    may: set[str]


ROWS = {
    "producer": Row(
        "^$",
        r"^(email\.jobs|jobkit\.delay\.[0-9]{2})$",
        "^$",
        r"^([01]\.){28}(due\.)?email(\.high|\.low)?$",
        {"jobs", *DELAYED},
    ),
    "worker": Row(
        "^$",
        r"^(email\.(jobs|dlx)|jobkit\.delay\.[0-9]{2})$",
        r"^email(\.high|\.low)?$",
        r"^([01]\.){28}(due\.)?email(\.high|\.low)?$",
        {"jobs", "dead letters", *DELAYED, "read probe", "read probe.high"},
    ),
    "scheduler": Row("^$", r"^email\.jobs$", "^$", "", {"jobs"}),
    "operator of dead letters": Row("^$", r"^email\.jobs$", r"^email\.dlq$", "", {"jobs", "read probe.dlq"}),
}


@pytest.fixture
def url(vhost_url: str) -> str:
    """The address of an administrator, where everything has been declared."""
    with ConnectionSettings([vhost_url]).open() as connection:
        declare(connection, ALL)
    return vhost_url


@contextmanager
def user(rabbitmq: RabbitMQ, url: str, row: Row) -> Iterator[str]:
    """The address of a user with the row's permissions for the service ``probe``."""
    name, vhost = f"user-{uuid4().hex[:8]}", quote(urlsplit(url).path.removeprefix("/"), safe="")
    configure, write, read, topic = (pattern.replace("email", "probe") for pattern in row[:4])
    rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
    permissions = {"configure": configure, "write": write, "read": read}
    rabbitmq.call("PUT", f"/api/permissions/{vhost}/{name}", permissions)
    for level in range(ladder.LEVELS) if topic else ():
        keys = {"exchange": ladder.level_name(level), "write": topic, "read": "^$"}
        rabbitmq.call("PUT", f"/api/topic-permissions/{vhost}/{name}", keys)
    yield url.replace("guest:guest", f"{name}:s3cret")
    rabbitmq.call("DELETE", f"/api/users/{name}")


def test_the_operator_of_dead_letters_sends_them_again(url: str, rabbitmq: RabbitMQ) -> None:
    failure = Failure.of(ValueError("no"), Reason.PERMANENT, actor="probe", queue="probe.high", died_at=1)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("probe.dlx", "", b"{}", pika.BasicProperties(headers=failure.headers()))

    def send_again(theirs: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "jobkit.cli", "dead-letters", "probe", "--send-again"]
        environment = {**os.environ, "JOBKIT_BROKER_URL": theirs}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    reader = ROWS["operator of dead letters"]._replace(write="^$")
    with user(rabbitmq, url, reader) as theirs:
        refused = send_again(theirs)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert "probe.jobs" in refused.stderr
    until(lambda: depth(url, "probe.dlq") == 1, "it is back in its queue")
    with user(rabbitmq, url, ROWS["operator of dead letters"]) as theirs:
        assert send_again(theirs).stderr == "sent again: 1 of 1\n"
    assert (depth(url, "probe.dlq"), depth(url, "probe.high")) == (0, 1)


def may_publish(connection: pika.BlockingConnection, exchange: str, key: str) -> bool:
    channel = connection.channel()
    channel.confirm_delivery()
    try:
        channel.basic_publish(exchange, key, b"")
    except pika.exceptions.ChannelClosedByBroker as refusal:
        if refusal.reply_code != 403:
            raise
        return False
    channel.close()
    return True


def may_read(connection: pika.BlockingConnection, queue: str) -> bool:
    channel = connection.channel()
    try:
        channel.basic_get(queue)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    channel.close()
    return True


@pytest.mark.parametrize("kind", ROWS)
def test_each_user_may_do_what_it_is_for_and_nothing_else(url: str, rabbitmq: RabbitMQ, kind: str) -> None:
    with (
        user(rabbitmq, url, ROWS[kind]) as theirs,
        pika.BlockingConnection(pika.URLParameters(theirs)) as connection,
    ):
        may = {name for name, (exchange, key) in WAYS.items() if may_publish(connection, exchange, key)}
        may |= {f"read {queue}" for queue in READABLE if may_read(connection, queue)}
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().queue_declare("probe.low", durable=True)
    assert may == ROWS[kind].may


@pytest.mark.parametrize("kind", ROWS)
def test_the_page_lists_each_user(kind: str) -> None:
    cells = [f"`{pattern}`".replace("|", r"\|") if pattern else "none" for pattern in ROWS[kind][:4]]
    assert f"| {kind} | {' | '.join(cells)} |" in (ROOT / "docs/how-to/rabbitmq.md").read_text()


def test_a_producer_sends_at_once_and_later(url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    with user(rabbitmq, url, ROWS["producer"]) as theirs, Producer(theirs, timeout=30, declare="never") as producer:
        producer.send(Probe())
        producer.send(Probe(), lane="high")
        producer.send(Probe(), delay=timedelta(seconds=1))
    until(lambda: depth(url, "probe") == 2, "both jobs arrive")
    assert depth(url, "probe.high") == 1
    assert [record.getMessage() for record in caplog.records if record.name.startswith("jobkit")] == []


def test_a_worker_runs_retries_and_buries(
    url: str, redis_url: str, rabbitmq: RabbitMQ, tmp_path: Path, ledger: Ledger, producer: Producer
) -> None:
    with user(rabbitmq, url, ROWS["worker"]) as theirs:
        settings = {"JOBKIT_BROKER_URL": theirs, "JOBKIT_STORE_URL": redis_url, "JOBKIT_DECLARE": "never"}
        with WorkerProcess(tmp_path, settings) as worker:
            producer.send(Probe(name="retried", then="fail", until_attempt=2))
            producer.send(Probe(name="dead", then="permanent"))
            ledger.wait_for("end", "retried")
            wait_for_dead_letter(url, "probe")
            wait_until_empty(url, "probe")
            assert "ACCESS_REFUSED" not in worker.output()


def test_a_scheduler_sends_to_the_services_that_have_schedules(
    url: str, redis_url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    registry, long_ago = RedisSchedules(redis_url), datetime.now(UTC) - timedelta(hours=1)
    registry.announce("probe", [Schedule.of("probe", Probe, cron("* * * * *"))], long_ago)
    registry.announce("other", [], long_ago)
    with user(rabbitmq, url, ROWS["scheduler"]) as theirs:
        settings = {"JOBKIT_BROKER_URL": theirs, "JOBKIT_STORE_URL": redis_url, "JOBKIT_DECLARE": "never"}
        command = [sys.executable, "-m", "jobkit.cli", "scheduler"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, env=WorkerProcess(tmp_path, settings).environment, stderr=log)
        try:
            until(lambda: depth(url, "probe") == 1, "the last tick is made up for", limit=60)
        finally:
            process.kill()
            process.wait(10)
    assert "ACCESS_REFUSED" not in (tmp_path / "log").read_text()


def test_a_declarer_needs_the_names_of_its_service_alone(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    queues = r"(due\.)?email(\.high|\.low)?|email\.dlq"
    names = rf"{queues}|email\.(dlx|jobs)|jobkit\.(delay\.[0-9]{{2}}|delivery|due|dl[qx])"
    row = Row(f"^({names})$", rf"^({names}|amq\.default)$", f"^({names})$", "", set())
    with (
        user(rabbitmq, vhost_url, row) as theirs,
        ConnectionSettings([theirs]).open() as connection,
    ):
        assert declare(connection, MINE) == ""

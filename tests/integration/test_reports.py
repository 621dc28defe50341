"""What a worker tells the outside: traces, metrics, errors, logs. All of it must have left before the process ends."""

import json
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from collector import Collector
from ledger import Ledger
from probe_service import Probe
from queues import message_body, wait_for_dead_letter, wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture
def environment(vhost_url: str, redis_url: str, collector: Collector) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # nothing leaves by the clock: only the flush at the end can bring it
        "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        "SENTRY_DSN": f"http://key@{collector.address}/1",
    }


def test_a_trace_goes_from_the_producer_over_a_job_to_the_job_that_it_sends(
    tmp_path: Path, environment: dict[str, str], vhost_url: str, collector: Collector, ledger: Ledger
) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with WorkerProcess(tmp_path, environment) as worker:
        with Producer(vhost_url) as producer:
            producer.send(Probe(name="warm"))
        ledger.wait_for("end", "warm")
        send_with_traceparent(vhost_url, f"00-{trace_id}-{span_id}-01", {"name": "parent", "children": 1})
        ledger.wait_for("end", "parent", "parent/0")
        wait_until_empty(vhost_url, "probe")
        assert worker.stop() == 0
    ours = [span for span in collector.spans() if span.trace_id.hex() == trace_id]
    assert sorted(span.name for span in ours) == ["process probe", "process probe", "send probe"]
    parent = next(span for span in ours if span.parent_span_id.hex() == span_id)
    (send,) = [span for span in ours if span.name == "send probe"]
    (child,) = [span for span in ours if span.name == "process probe" and span is not parent]
    assert send.parent_span_id == parent.span_id
    assert child.parent_span_id == send.span_id
    assert [link.span_id for link in child.links] == [send.span_id]
    attributes = {entry.key: entry.value.string_value for entry in parent.attributes}
    assert attributes["messaging.system"] == "rabbitmq"
    assert attributes["messaging.destination.name"] == "probe"
    assert attributes["jobkit.outcome"] == "completed"
    assert {
        "messaging.client.sent.messages",
        "messaging.client.operation.duration",
        "messaging.client.consumed.messages",
        "messaging.process.duration",
    } <= collector.metric_names()


def test_a_job_that_died_is_reported_once_however_often_it_was_tried(
    tmp_path: Path, environment: dict[str, str], vhost_url: str, collector: Collector, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment) as worker:
        with Producer(vhost_url) as producer:
            died = producer.send(Probe(name="hopeless", then="fail"))
            producer.send(Probe(name="flaky", then="fail", until_attempt=2))
        wait_for_dead_letter(vhost_url, "probe")
        ledger.wait_for("end", "flaky")
        assert worker.stop() == 0
    assert ledger.counts("start") == {"hopeless": 3, "flaky": 2}
    (event,) = collector.sentry_events()
    assert event["tags"]["job_id"] == died.job_id
    assert (event["tags"]["actor"], event["tags"]["queue"], event["tags"]["attempt"]) == ("probe", "probe", "3")
    assert event["exception"]["values"][-1]["type"] == "TransientError"


def test_every_line_that_a_job_causes_names_it(
    tmp_path: Path, environment: dict[str, str], vhost_url: str, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment) as worker, Producer(vhost_url) as producer:
        receipt = producer.send(Probe(name="flaky", then="fail", until_attempt=2))
        ledger.wait_for("end", "flaky")
        ledger.wait(lambda _: "job completed" in worker.output())
        lines = [json.loads(line) for line in worker.output().splitlines() if receipt.job_id in line]
        assert [(line["event"].partition(":")[0], line["attempt"]) for line in lines] == [
            ("job failed, runs again in 1 s", 1),
            ("job completed", 2),
        ]
        assert all(line["actor"] == "probe" and len(line["trace_id"]) == 32 for line in lines)
        assert '"name": "flaky"' not in worker.output(), "payloads do not belong into logs"


def test_no_line_of_any_level_shows_a_payload(
    tmp_path: Path, environment: dict[str, str], vhost_url: str, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, {**environment, "JOBKIT_LOG_LEVEL": "DEBUG"}) as worker:
        with Producer(vhost_url) as producer:
            producer.send(Probe(name="alice-s3cret", then="snooze", until_attempt=1))
            producer.send(Probe(name="carol-s3cret", children=1))
            receipt = producer.send(Probe(name="bob-s3cret"))
        ledger.wait_for("end", "bob-s3cret", "carol-s3cret", "carol-s3cret/0")
        ledger.wait(lambda _: worker.output().count("job completed") >= 3)
        assert worker.stop() == 0
    assert receipt.job_id in worker.output()
    assert "s3cret" not in worker.output()


def test_a_worker_reports_traces_whatever_protocol_the_application_speaks(
    tmp_path: Path, environment: dict[str, str], vhost_url: str, collector: Collector, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, {**environment, "OTEL_PROPAGATORS": "b3"}) as worker:
        with Producer(vhost_url) as producer:
            producer.send(Probe(name="parent", children=1))
        ledger.wait_for("end", "parent", "parent/0")
        wait_until_empty(vhost_url, "probe")
        assert worker.stop() == 0
    (send,) = [span for span in collector.spans() if span.name == "send probe"]
    assert send.span_id in {span.parent_span_id for span in collector.spans() if span.name == "process probe"}


@pytest.mark.parametrize("dsn", ["not a dsn", '"https://key@127.0.0.1:1/1"', "https://key@127.0.0.1:1", "false"])
def test_a_worker_whose_reports_would_go_nowhere_ends_at_its_start(
    tmp_path: Path, environment: dict[str, str], dsn: str
) -> None:
    worker = WorkerProcess(tmp_path, {**environment, "SENTRY_DSN": dsn})
    try:
        worker.start(wait=False)
        assert worker.wait(30) == 78
    finally:
        worker.kill()
    assert "SENTRY_DSN: " in worker.output()
    assert "Traceback" not in worker.output()


def send_with_traceparent(url: str, traceparent: str, payload: dict[str, object]) -> None:
    properties = pika.BasicProperties(headers={"traceparent": traceparent}, delivery_mode=2)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish("", "probe", message_body(kwargs=payload), properties)

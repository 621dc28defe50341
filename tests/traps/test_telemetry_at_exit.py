"""Trap 7: a worker stops, and its last spans are still in memory.

Before Python 3.13, worker processes end without running what ``atexit`` was given.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from collector import Collector
from queues import message_body, publish
from worker_process import WorkerProcess


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture
def environment(worker_settings: dict[str, str], collector: Collector) -> dict[str, str]:
    return {
        **worker_settings,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # nothing leaves by the clock
        "OTEL_METRIC_EXPORT_INTERVAL": "600000",
    }


#: From 3.13 on, Python's multiprocessing runs what was to run at the interpreter's exit in its children, too.
LOST = [] if sys.version_info < (3, 13) else ["process probe"]


@pytest.mark.parametrize(
    ("module", "exported"),
    [
        pytest.param("stock_probe", LOST, id="stock_loses_its_last_spans"),
        pytest.param("probe_service", ["process probe"], id="they_are_flushed_before_the_process_ends"),
    ],
)
def test_the_last_spans_of_a_worker_that_stops(
    module: str, exported: list[str], tmp_path: Path, environment: dict[str, str], vhost_url: str, collector: Collector
) -> None:
    with WorkerProcess(tmp_path, environment, module=module) as worker:
        publish(vhost_url, "probe", message_body(kwargs={"name": "last"}))
        worker.ledger.wait_for("end", "last")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert [span.name for span in collector.spans()] == exported

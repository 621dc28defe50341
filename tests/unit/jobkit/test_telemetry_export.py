"""Telemetry that is set up wrongly ends a worker at its start, and a silent collector does not hold up its end."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from opentelemetry import metrics, trace

from jobkit.middleware.telemetry_export import FLUSH_TIMEOUT, TelemetryExport
from jobkit.settings import PlatformSettings


@pytest.fixture(autouse=True)
def _no_global_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(trace, "set_tracer_provider", Mock())  # each can be set once in a process
    monkeypatch.setattr(metrics, "set_meter_provider", Mock())


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_collector_holds_up_the_end_of_a_worker_for_two_seconds_at_most(silent: str) -> None:
    export = TelemetryExport(f"{silent}/v1/traces", f"{silent}/v1/metrics", "mail-service")
    export.before_worker_boot(Mock(), Mock())
    (provider,) = trace.set_tracer_provider.call_args.args  # type: ignore[attr-defined]  # the Mock above
    provider.get_tracer("test").start_span("a span").end()
    (meters,) = metrics.set_meter_provider.call_args.args  # type: ignore[attr-defined]
    meters.get_meter("test").create_counter("jobs").add(1)
    started = time.monotonic()
    export.after_worker_shutdown(Mock(), Mock())
    assert time.monotonic() - started < FLUSH_TIMEOUT + 0.5


def test_a_variable_of_opentelemetry_that_cannot_be_used_ends_the_worker_with_78(silent: str) -> None:
    code = f"""if True:
        from unittest.mock import Mock
        from jobkit.middleware.telemetry_export import TelemetryExport
        TelemetryExport("{silent}/v1/traces", None, "mail-service").before_worker_boot(Mock(), Mock())
    """
    done = subprocess.run(  # in a process of its own, as the variable is read once
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in done.stderr


@pytest.mark.parametrize(
    "variable", ["OTEL_PROPAGATORS", "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER", "OTEL_TRACES_SAMPLER"]
)
def test_a_producer_can_be_imported_whatever_opentelemetry_is_told(variable: str) -> None:
    code = "import jobkit.producer, jobkit.service, jobkit.middleware.sentry"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, variable: "b3"}, check=False, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("variables", "traces", "numbers"),
    [
        ({}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces", "http://c:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/otlp"}, "http://c/otlp/v1/traces", "http://c/otlp/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:4318/x"}, "http://t:4318/x", None),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:4318/x"}, None, "http://m:4318/x"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"},
            "http://t/x",
            "http://c:4318/v1/metrics",
        ),
    ],
)
def test_each_signal_goes_where_its_variable_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], traces: str | None, numbers: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    platform = PlatformSettings()
    assert (platform.traces_endpoint, platform.metrics_endpoint) == (traces, numbers)

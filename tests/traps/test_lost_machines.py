"""The loss of a machine: what it ran runs elsewhere when its connection counts as dead, and its leases have ended."""

import signal
import time
from pathlib import Path

import pytest
from ledger import Ledger
from queues import message_body, publish, wait_until_empty
from sizes import LARGE, size
from worker_process import WorkerProcess

#: Seconds. The large size is the default.
HEARTBEAT, LEASE = size(5, 10), size(5, 15)

#: Seconds. RabbitMQ looks once in a heartbeat whether something has come, and gives a client up when nothing has twice:
#: after two to three of them. Another worker then takes a moment to begin.
WITHIN = max(3 * HEARTBEAT, LEASE) + 2


@pytest.mark.prove("loss of a machine", size=f"heartbeats of {HEARTBEAT} s, leases of {LEASE} s")
def test_a_job_of_a_machine_that_is_gone_runs_elsewhere_in_time(
    tmp_path: Path, worker_settings: dict[str, str], vhost_url: str
) -> None:
    environment = {
        **worker_settings,
        "JOBKIT_HEARTBEAT_SECONDS": str(HEARTBEAT),
        "JOBKIT_LEASE_SECONDS": str(LEASE),
    }
    ledger = Ledger(tmp_path / "ledger")
    with WorkerProcess(tmp_path, environment, name="lost") as lost:
        publish(vhost_url, "probe", message_body(kwargs={"name": "unlucky", "then": "hang", "until_attempt": 2}))
        ledger.wait_for("start", "unlucky")
        with WorkerProcess(tmp_path, environment, name="other"):
            lost.signal_all(signal.SIGSTOP)  # its connections stay open, as those of a machine without power do
            gone_at = time.monotonic()
            ledger.wait_for("end", "unlucky", limit=5 * WITHIN)
            took = time.monotonic() - gone_at
            wait_until_empty(vhost_url, "probe")
    assert (ledger.counts("start"), ledger.counts("end")) == ({"unlucky": 2}, {"unlucky": 1})
    assert took <= (WITHIN if LARGE else 5 * WITHIN)

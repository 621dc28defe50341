"""Every kind of malice once, on a real broker. ``make fuzz`` sends thousands to every queue of every service."""

import os
import time
from pathlib import Path

from campaign import Campaign
from evidence import DeadLetters, Logs, unsettled
from hostile import Target
from probe_service import Probe
from publishing import publish
from queues import wait_for_queue, wait_until_empty
from vitals import look_at
from worker_process import WorkerProcess

#: MiB: what it takes for eight messages of up to 3 MB, and not for a list of all that is wrong with one of them.
LARGEST = 300
SEED = os.environ.get("FUZZ_SEED", "7")


def test_every_hostile_message_becomes_what_it_should_and_hurts_no_good_job(
    tmp_path: Path, vhost_url: str, redis_url: str
) -> None:
    environment = {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "3",  # what finds its job held asks again when the lease could be over
        "JOBKIT_STORE_TIMEOUT_SECONDS": "0.5",
        "JOBKIT_ROLLOUT_SECONDS": "0",  # what no actor takes is dead at once
    }
    messages = Campaign(Target("probe", Probe(name="good"), foreign="send_email"), SEED).round(0)
    with WorkerProcess(tmp_path, environment) as worker:
        wait_for_queue(vhost_url, "probe")
        with DeadLetters(vhost_url, ["probe"]) as letters:
            logs, processes = Logs([worker.log]), worker.children
            for late in (False, True):
                publish(vhost_url, [message for message in messages if message.late is late])
                sent = [message for message in messages if late or not message.late]
                deadline = time.monotonic() + 40
                while unsettled(sent, logs, letters) and time.monotonic() < deadline and not letters.error:
                    time.sleep(0.1)
                    logs.read_on()
            problems = unsettled(messages, logs, letters)
            assert not problems, f"with FUZZ_SEED={SEED}:\n" + "\n".join(problems)
            wait_until_empty(vhost_url, "probe")
        assert logs.unexpected == []
        assert worker.children == processes, "a worker process has ended"
        assert look_at(processes[0]).peak < LARGEST

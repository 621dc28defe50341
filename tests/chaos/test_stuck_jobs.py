"""What becomes of a job that does not end after its time limit, of its process, and of the jobs beside it."""

from pathlib import Path

import pytest
from ledger import Ledger
from probe_service import Probe, Stuck
from worker_process import WorkerProcess

from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobRecord
from jobkit.store.redis import RedisStore


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "6",
        "JOBKIT_STORE_TIMEOUT_SECONDS": "1",
        "JOBKIT_STUCK_SECONDS": "7",
        "JOBKIT_LOG_FORMAT": "json",
        "PROBE_STOP_GRACE_SECONDS": "40",
        "PROBE_STOP_LIMIT_SECONDS": "5",
    }


def record(environment: dict[str, str], actor: str, job_id: str) -> JobRecord:
    store = RedisStore(environment["JOBKIT_STORE_URL"])
    try:
        found = store.record(JobKey("probe", actor, job_id))
        assert found is not None
        return found
    finally:
        store.close()


def test_a_stuck_job_is_reported_with_its_stack_and_its_process_is_replaced(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    ways = ["lock", "asyncio", "subprocess", "ignored"]
    with WorkerProcess(tmp_path, environment, threads=len(ways), supervised=True) as worker:
        job_ids = [producer.send(Stuck(name=way, how=way)).job_id for way in ways]
        ledger.wait_for("start", *ways)
        producer.send(Probe(name="behind them"))
        ledger.wait_for("end", *ways, "behind them", limit=60)
        assert worker.output().count("a worker process has died") == 1
        reports = [line for line in worker.output().splitlines() if "job has not ended" in line and "stack" in line]
        assert worker.stop() == 0
    for job_id in job_ids:
        (report,) = [line for line in reports if job_id in line]
        assert "_get_stuck" in report
        assert record(environment, "stuck", job_id).crashes == 1
    assert ledger.counts("start") == {**dict.fromkeys(ways, 2), "behind them": 1}


def test_only_the_stuck_job_counts_a_crash_when_its_process_is_replaced(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, threads=3, supervised=True) as worker:
        stuck = producer.send(Stuck(name="stuck", how="lock")).job_id
        # Enough of each for both processes: one ends while its process stops, one is handed back.
        ending = [producer.send(Probe(name=f"ending-{n}", seconds=10)).job_id for n in range(2)]
        handed_back = [producer.send(Probe(name=f"long-{n}", seconds=17)).job_id for n in range(2)]
        ledger.wait(lambda log: len(log.entries("start")) == 5, what="the start of all jobs")
        (busy,) = [entry.pid for entry in ledger.entries("start") if entry.name == "stuck"]
        beside = [entry.name for entry in ledger.entries("start") if entry.pid == busy and entry.name != "stuck"]
        assert beside, "no job runs beside the stuck one"
        ledger.wait_for("end", "stuck", *(f"ending-{n}" for n in range(2)), *(f"long-{n}" for n in range(2)), limit=90)
        assert worker.stop() == 0
    assert record(environment, "stuck", stuck).crashes == 1
    for job_id in [*ending, *handed_back]:
        kept = record(environment, "probe", job_id)
        assert (kept.crashes, kept.attempt) == (0, 1)
    assert all(ledger.counts("start")[f"ending-{n}"] == 1 for n in range(2))
    assert {entry.attempt for entry in ledger.entries("start")} <= {1, 2}
    others = {entry.pid for entry in ledger.entries("start")} - {busy}
    assert others, "the other process went on"


def test_a_call_that_freezes_the_interpreter_ends_its_process_with_all_stacks(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    health = tmp_path / "health"
    environment |= {"JOBKIT_STUCK_SECONDS": "16", "JOBKIT_HEALTH_FOLDER": str(health)}  # longer than two renewals
    with WorkerProcess(tmp_path, environment, threads=1, supervised=True) as worker:
        producer.send(Stuck(name="stuck", how="frozen"))
        ledger.wait_for("start", "stuck")
        ledger.wait(
            lambda _log: list(health.glob("replaced-*.json")) != [], what="the mark of the frozen process", limit=60
        )
        ledger.wait_for("end", "stuck", limit=60)
        assert "_get_stuck" in worker.output()
        assert "was frozen for" in worker.output()
        assert worker.stop() == 0

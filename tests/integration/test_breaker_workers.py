"""Two workers, on real RabbitMQ and Redis, whose jobs depend on something that is down."""

from pathlib import Path

from ledger import Ledger
from probe_service import Call, Probe
from worker_process import WorkerProcess

from jobkit.producer import Producer

JOBS = [f"call-{n}" for n in range(60)]


def test_all_workers_pause_and_one_job_at_a_time_probes(tmp_path: Path, vhost_url: str, redis_url: str) -> None:
    environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    ledger, outage = Ledger(tmp_path / "ledger"), tmp_path / "outage"
    outage.touch()
    workers = [WorkerProcess(tmp_path, environment, name=name) for name in ("one", "two")]
    with workers[0], workers[1], Producer(vhost_url) as producer:
        producer.send_many(Call(name=name) for name in JOBS)
        ledger.wait(lambda _: any("its probe has failed" in worker.output() for worker in workers), what="a probe")
        tried = len(ledger.entries("start"))
        producer.send(Probe(name="unrelated"))
        ledger.wait_for("end", "unrelated")
        outage.unlink()
        ledger.wait_for("end", *JOBS)
        said = "".join(worker.output() for worker in workers)
    assert tried < len(JOBS) / 2, "most have not tried their luck"
    assert "breaker dependency is open for 2 s: 4 jobs have failed" in said
    assert "breaker dependency is closed; runs postponed here: " in said
    # Whoever ran before it opened may have used up an attempt; nobody has used up two.
    assert {entry.attempt for entry in ledger.entries("end")} <= {1, 2}
    assert set(ledger.counts("end").values()) == {1}

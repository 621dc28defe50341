"""What the command shows of jobs that a real worker ran, and of what it could not do."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pika
import pytest
from in_process import until
from probe_service import Probe
from queues import depth
from worker_process import WorkerProcess

from jobkit.breaker.redis import RedisSwitches
from jobkit.breaker.switches import Probe as ProbeAnswer
from jobkit.broker.ladder import LEVELS
from jobkit.producer import Producer
from jobkit.schedule.cron import cron
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.schedule import Schedule
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def worker(tmp_path: Path, vhost_url: str, redis_url: str) -> WorkerProcess:
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    return WorkerProcess(tmp_path, settings)


@pytest.fixture
def jobkit(worker: WorkerProcess) -> Command:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "jobkit.cli", *arguments]
        return subprocess.run(command, env=worker.environment, capture_output=True, text=True, check=False, timeout=100)

    return run


def ended(worker: WorkerProcess, job: Probe, url: str, redis_url: str) -> str:
    """Send a job to the worker, and return its id when it is done or dead."""
    store = RedisStore(redis_url)
    with Producer(url) as producer:
        key = JobKey("probe", "probe", producer.send(job).job_id)
    over = {JobState.DONE, JobState.DEAD}
    worker.ledger.wait(lambda _: (found := store.record(key)) is not None and found.state in over, what=key.id)
    store.close()
    return key.id


def lines(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_the_status_of_jobs_that_are_done_and_dead(
    worker: WorkerProcess, jobkit: Command, vhost_url: str, redis_url: str
) -> None:
    with worker:
        done = ended(worker, Probe(name="n" * 200), vhost_url, redis_url)
        dead = ended(worker, Probe(then="permanent"), vhost_url, redis_url)
        until(lambda: "told to give up" in worker.output(), "its line is written")
    shown = lines(jobkit("status", "probe", done).stdout)
    assert (shown["job"], shown["state"], shown["attempt"]) == (done, "done", "1")
    assert shown["result"] == json.dumps({"name": "n" * 200, "attempt": 1}, separators=(",", ":"))
    assert shown["started"] <= shown["finished"]
    assert shown["finished"].endswith(" UTC")
    read = json.loads(jobkit("status", "probe", done, "--json").stdout)
    assert (read["state"], read["result"], read["due_at"]) == ("done", {"name": "n" * 200, "attempt": 1}, None)
    assert datetime.fromisoformat(read["started_at"]) <= datetime.fromisoformat(read["finished_at"])
    assert "told to give up" in lines(jobkit("status", "probe", dead).stdout)["failure"]
    assert json.loads(jobkit("status", "probe", dead, "--json").stdout)["state"] == "dead"
    # It was foreseen, so one line of the log says it, and the dead letter holds the traceback.
    assert "Traceback" not in worker.output()
    unknown = jobkit("status", "probe", "nobody", "--json")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("nothing is known of probe nobody: it has not started")
    misspelt = jobkit("status", "Probe", done)
    assert misspelt.returncode == 1
    assert misspelt.stderr == "no worker of any service has announced an actor 'Probe': did you mean 'probe'?\n"
    assert jobkit("status", "probe", done, "--service", "prob").stderr.endswith("did you mean 'probe'?\n")


def test_dead_letters_are_shown_whole_and_stay(
    worker: WorkerProcess, jobkit: Command, vhost_url: str, redis_url: str
) -> None:
    with worker:
        ended(worker, Probe(), vhost_url, redis_url)
        assert jobkit("dead-letters", "probe").stdout == "no dead letters\n"
        assert json.loads(jobkit("dead-letters", "probe", "--json").stdout) == []
        dead = [ended(worker, Probe(then="permanent"), vhost_url, redis_url) for _ in range(2)]
    first, second = (lines(text) for text in jobkit("dead-letters", "probe").stdout.split("\n\n"))
    assert [first["job"], second["job"]] == dead
    assert (first["actor"], first["queue"], first["reason"], first["attempts"]) == ("probe", "probe", "permanent", "1")
    assert first["died"].endswith(" UTC")
    assert first["failure"] == "PermanentError: told to give up"
    assert first["fingerprint"] == second["fingerprint"]
    misspelt = jobkit("dead-letters", "probe", "--fingerprint", "5d0c1a7be943")
    assert misspelt.stdout == "no dead letters with the fingerprint 5d0c1a7be943\n"
    limited = jobkit("dead-letters", "probe", "--json", "--limit", "1")
    assert "1 of 2" in limited.stderr
    [read] = json.loads(limited.stdout)
    assert (read["job_id"], read["message"], read["fingerprint"]) == (dead[0], "told to give up", first["fingerprint"])
    assert datetime.fromisoformat(read["died_at"]) <= datetime.now(UTC)
    assert depth(vhost_url, "probe.dlq") == 2


def test_a_service_that_has_never_run_is_said_so(jobkit: Command) -> None:
    done = jobkit("dead-letters", "emial", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no service 'emial' has run on this broker")
    assert done.stderr.count("\n") == 1


def test_delayed_jobs_whose_queue_was_gone_are_shown_with_its_name(jobkit: Command, vhost_url: str) -> None:
    with Producer(vhost_url, timeout=30) as producer:
        producer.send(Probe())
        key = f"{'*.' * LEVELS}due.probe"
        with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
            connection.channel().queue_unbind("due.probe", "jobkit.due", key)
        sent = producer.send(Probe(), delay=timedelta(seconds=1))
    wait_until_parked = time.monotonic() + 20
    while depth(vhost_url, "jobkit.dlq") == 0:
        assert time.monotonic() < wait_until_parked
        time.sleep(0.05)
    shown = lines(jobkit("dead-letters", "jobkit").stdout)
    assert (shown["job"], shown["queue"], shown["reason"]) == (sent.job_id, "probe", "unroutable")


def test_definitions_are_printed_for_import(jobkit: Command, vhost_url: str) -> None:
    printed = json.loads(jobkit("definitions", "email").stdout)
    assert {queue["vhost"] for queue in printed["queues"]} == {vhost_url.rsplit("/", 1)[1]}
    names = {queue["name"] for queue in printed["queues"] if not queue["name"].startswith("jobkit.delay.")}
    lanes = {"email", "email.high", "email.low"}
    assert names == {*lanes, *(f"due.{lane}" for lane in lanes), "email.dlq", "jobkit.dlq"}
    everything = json.loads(jobkit("definitions", "--vhost", "jobs").stdout)
    exchanges = {exchange["name"] for exchange in everything["exchanges"]}
    assert {"email.jobs", "images.jobs", "etl.jobs", "inference.jobs"} <= exchanges
    assert {binding["vhost"] for binding in everything["bindings"]} == {"jobs"}
    unknown = jobkit("definitions", "emial")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("there is no service 'emial' here")


def test_schedules_are_shown_with_their_ticks(jobkit: Command, redis_url: str) -> None:
    assert jobkit("schedules").stdout.startswith("no schedules")
    now = datetime.now(UTC)
    schedule = Schedule.of("probe", Probe, cron("0 12 * * *", "Europe/Berlin"))
    RedisSchedules(redis_url).announce("probe", [schedule], now)
    shown = lines(jobkit("schedules").stdout)
    assert (shown["schedule"], shown["cron"], shown["time zone"]) == ("probe.probe", "0 12 * * *", "Europe/Berlin")
    [read] = json.loads(jobkit("schedules", "--json").stdout)
    following = datetime.fromisoformat(read["next"])
    assert following > now
    # It was announced, and has not run.
    assert (shown["last"], read["last"]) == ("never", None)
    RedisSchedules(redis_url).advance("probe.probe", now + timedelta(days=1))
    assert lines(jobkit("schedules").stdout)["last"] == f"{now + timedelta(days=1):%Y-%m-%d %H:%M:%S} UTC"
    assert shown["next"] == f"{following:%Y-%m-%d %H:%M:%S} UTC"


def test_open_breakers_are_shown_with_their_reason_and_closed_by_hand(jobkit: Command, redis_url: str) -> None:
    assert jobkit("breakers").stdout == "no breaker is open\n"
    assert json.loads(jobkit("breakers", "--json").stdout) == []
    switches, pause = RedisSwitches(redis_url), timedelta(minutes=5)
    for name in ("email/smtp", "etl/storage", "images/storage"):
        switches.trip(name, "a", pause=pause, longest=pause, reason=f"Unavailable: {name} hung up")
    switches.trip("etl/warehouse", "a", pause=timedelta(milliseconds=1), longest=pause)
    deadline = time.monotonic() + 10
    while not isinstance(switches.ask("etl/warehouse", "b", probe_for=pause), ProbeAnswer):
        assert time.monotonic() < deadline
    first, storage, warehouse, _ = (lines(text) for text in jobkit("breakers").stdout.split("\n\n"))
    assert (first["breaker"], first["state"], storage["breaker"]) == ("email/smtp", "open", "etl/storage")
    assert first["reason"] == "Unavailable: email/smtp hung up"
    assert first["since"].endswith(" UTC")
    assert 200 < int(first["next probe"].removeprefix("in ").removesuffix(" s")) <= 300
    assert (warehouse["state"], warehouse["next probe"]) == ("probing", "a job probes now")
    read = json.loads(jobkit("breakers", "--json").stdout)[0]
    assert (read["name"], read["state"], 200 < read["next_probe_in_seconds"] <= 300) == ("email/smtp", "open", True)

    refused = [jobkit("breakers", "close", name) for name in ("storage", "email/smpt", "nothing")]
    assert [done.returncode for done in refused] == [1, 1, 1]
    assert refused[0].stderr == "storage is a breaker of several services: say etl/storage or images/storage\n"
    assert refused[1].stderr == "breaker 'email/smpt' is not open: did you mean email/smtp?\n"
    assert refused[2].stderr.startswith("breaker 'nothing' is not open, only email/smtp, ")
    assert jobkit("breakers", "close", "smtp").stdout.startswith("email/smtp is closed: ")
    assert jobkit("breakers", "close", "etl/storage").returncode == 0
    assert [breaker.name for breaker in switches.opened()] == ["etl/warehouse", "images/storage"]

"""Schedules on real parts: announced by workers, fired once by any number of schedulers."""

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from ledger import Ledger
from probe_service import Daily, Probe
from queues import depth, wait_for_queue, wait_until_empty
from worker_process import WorkerProcess

from jobkit.access import Access
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.detours import ways_to
from jobkit.broker.sender import Sender
from jobkit.refusals import LOGIN, WRITING, Refusals
from jobkit.schedule.cron import cron
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.schedule import Schedule
from jobkit.schedule.scheduler import STORE, Scheduler
from local_stack.rabbitmq import RabbitMQ

START = datetime(2026, 3, 1, 11, 58, 30, tzinfo=UTC)


@pytest.fixture
def sender(vhost_url: str) -> Iterator[Sender]:
    built = Sender(ConnectionSettings([vhost_url]), app_id="scheduler")
    yield built
    built.close()


@pytest.fixture
def registry(redis_url: str) -> RedisSchedules:
    return RedisSchedules(redis_url)


def at(moment: datetime) -> Callable[[], datetime]:
    return lambda: moment


def test_two_schedulers_fire_a_tick_once(
    tmp_path: Path, vhost_url: str, redis_url: str, sender: Sender, registry: RedisSchedules
) -> None:
    schedule = Schedule.of("probe", Probe, cron("0 12 * * *"))
    registry.announce("probe", [schedule], START)
    noon = START.replace(hour=12, minute=0, second=1)
    # The second has read the registry before the first has noted the tick: both send.
    stale = registry.last_tick(schedule.name)
    assert Scheduler(registry, sender, at(noon)).fire_due() == 1
    forgetful = RedisSchedules(redis_url)
    forgetful.last_tick = lambda *_: stale  # type: ignore[method-assign]  # what it has forgotten
    assert Scheduler(forgetful, sender, at(noon)).fire_due() == 1
    assert Scheduler(registry, sender, at(noon + timedelta(seconds=30))).fire_due() == 0
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_LEASE_SECONDS": "3"}
    settings["JOBKIT_STORE_TIMEOUT_SECONDS"] = "0.5"  # the second message waits for as long as a lease
    ledger = Ledger(tmp_path / "ledger")
    with WorkerProcess(tmp_path, settings):
        ledger.wait_for("end", "probe")
        wait_until_empty(vhost_url, "probe")
    assert ledger.counts("start") == {"probe": 1}


def test_the_defaults_of_a_tick_outlast_a_worker_that_was_killed_and_a_retry(
    tmp_path: Path, vhost_url: str, redis_url: str, sender: Sender, registry: RedisSchedules
) -> None:
    registry.announce("probe", [Schedule.of("probe", Daily, cron("0 12 * * *"))], START)
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_LEASE_SECONDS": "2"}
    settings["JOBKIT_STORE_TIMEOUT_SECONDS"] = "0.3"
    # Before the worker starts: it announces that its service has no schedules.
    assert Scheduler(registry, sender, at(START.replace(hour=12, minute=0, second=1))).fire_due() == 1
    with WorkerProcess(tmp_path, settings) as worker:
        worker.ledger.wait(lambda ledger: bool(ledger.entries("daily")), what="the first run")
    with WorkerProcess(tmp_path, settings, name="second") as worker:
        worker.ledger.wait_for("end", "daily")
    runs = [entry.name for entry in worker.ledger.entries("daily")]
    assert len(runs) == 3
    assert len(set(runs)) == 1


def test_a_worker_announces_its_periodic_jobs_and_the_scheduler_process_ends_on_sigterm(
    tmp_path: Path, vhost_url: str, redis_url: str, registry: RedisSchedules
) -> None:
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "PROBE_PERIODIC": "*/5 * * * mon-fri"}
    with WorkerProcess(tmp_path, settings) as worker:
        wait_for_queue(vhost_url, "probe")
        worker.ledger.wait(lambda _: bool(registry.schedules()), what="the announcement")
        (schedule,) = registry.schedules()
        assert (schedule.name, schedule.spec, schedule.queue) == ("probe.probe", "*/5 * * * mon-fri", "probe")
        log = tmp_path / "scheduler.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobkit.cli", "scheduler"], env=worker.environment, stdout=output, stderr=output
            )
        try:
            worker.ledger.wait(lambda _: "firing 1 schedules" in log.read_text(), what=str(log))
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait(10)


def test_a_worker_without_periodic_jobs_ends_the_schedules_that_its_service_had(
    tmp_path: Path, vhost_url: str, redis_url: str, registry: RedisSchedules
) -> None:
    registry.announce("probe", [Schedule.of("probe", Probe, cron("* * * * *"))], START)
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    with WorkerProcess(tmp_path, settings) as worker:
        worker.ledger.wait(lambda _: not registry.schedules(), what="the announcement")


def test_schedules_of_a_newer_version_are_read_and_unreadable_ones_are_skipped_and_logged_once(
    redis_url: str, registry: RedisSchedules, caplog: pytest.LogCaptureFixture
) -> None:
    good = Schedule.of("probe", Probe, cron("0 12 * * *"))
    fields = asdict(good)
    entries = [
        {**fields, "jitter": 3},
        {name: value for name, value in fields.items() if name != "queue"},
        {**fields, "name": "probe.typed", "version": "two"},
        {**fields, "name": "probe.cron", "spec": "0 25 * * *"},
        {**fields, "name": "probe.zone", "timezone": "Europe/Atlantis"},
        "nonsense",
    ]
    lists = {"probe": json.dumps(entries), "cut": '[{"name', "wrong": '{"name": 1}', b"\xff": b"\xff"}
    with redis.Redis.from_url(redis_url) as client:
        client.hset("jobkit:schedules", mapping=lists)
    for _ in range(3):
        assert registry.schedules() == [good]
    complaints = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(complaints) == 8
    for part in ("Field required", "probe.typed", "'25' is no hour", "Europe/Atlantis", "nonsense", "what cut has"):
        assert sum(part in complaint for complaint in complaints) == 1, part
    registry.announce("probe", [good], START)
    assert registry.last_tick(good.name) == START


def test_an_unreadable_record_of_a_last_tick_is_replaced_by_the_next_announcement(
    redis_url: str, registry: RedisSchedules
) -> None:
    schedule = Schedule.of("probe", Probe, cron("0 12 * * *"))
    with redis.Redis.from_url(redis_url) as client:
        for record in ("{cut", "7", "{}"):
            client.hset("jobkit:schedules:ticks", schedule.name, record)
            registry.announce("probe", [schedule], START)
            assert registry.last_tick(schedule.name) == START


def test_a_service_removed_by_hand_that_comes_back_later_starts_anew(redis_url: str, registry: RedisSchedules) -> None:
    schedule = Schedule.of("probe", Probe, cron("0 12 * * *"))
    registry.announce("probe", [schedule], START)
    with redis.Redis.from_url(redis_url) as client:
        client.hdel("jobkit:schedules", "probe")
    registry.announce("probe", [schedule], START + timedelta(days=1))
    assert registry.last_tick(schedule.name) == START + timedelta(days=1)


def test_the_actors_of_each_service_are_kept_until_they_change(redis_url: str, registry: RedisSchedules) -> None:
    registry.announce("probe", [], actors=["probe", "call"])
    registry.announce("files", [])
    assert registry.actors() == {"probe": ["probe", "call"]}
    registry.announce("probe", [])
    assert registry.actors() == {"probe": ["probe", "call"]}, "an older worker does not say"
    registry.announce("probe", [], actors=["probe"])
    with redis.Redis.from_url(redis_url) as client:
        client.hset("jobkit:actors", mapping={"cut": "[", "wrong": '{"a": 1}', "number": "7"})
    assert registry.actors() == {"probe": ["probe"]}


def test_a_schedule_of_a_version_before_goes_on_after_its_last_tick(redis_url: str, registry: RedisSchedules) -> None:
    schedule = Schedule.of("probe", Probe, cron("0 12 * * *"))
    cursor = {"last": str(START.timestamp()), "seen": str(START.timestamp()), "round": "1"}
    entry = {**asdict(schedule), "payload": {"name": "probe", "seconds": 0.0}}
    del entry["misfire_seconds"]
    with redis.Redis.from_url(redis_url) as client:
        client.hset("jobkit:schedules", "probe", json.dumps([entry]))
        client.hset("jobkit:schedules:rounds", "probe", "1")
        client.hset(
            "jobkit:schedules:ticks",
            schedule.name,
            json.dumps({"when": schedule.when, "cursors": {schedule.when: cursor}}),
        )
    [read] = registry.schedules()
    assert read.message(START).kwargs == {"name": "probe", "seconds": 0.0}
    assert registry.last_tick(schedule.name) == START
    assert registry.last_sent(schedule.name) is None
    registry.announce("probe", [schedule])
    assert registry.last_tick(schedule.name) == START


def scheduler_process(tmp_path: Path, broker_url: str, store_url: str) -> "subprocess.CompletedProcess[str]":
    settings = {"JOBKIT_BROKER_URL": broker_url, "JOBKIT_STORE_URL": store_url, "JOBKIT_LOG_FORMAT": "console"}
    return subprocess.run(
        [sys.executable, "-m", "jobkit.cli", "scheduler"],
        env=WorkerProcess(tmp_path, settings).environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    "rules", [None, "+@all -time", "+@all -hgetall", "+@all -@scripting", "+@all resetkeys %R~*", "+@all -hset"]
)
def test_a_scheduler_that_the_store_refuses_ends_at_once_in_one_line(
    tmp_path: Path, vhost_url: str, redis_url: str, rules: str | None
) -> None:
    parts = urlsplit(redis_url)
    url = parts._replace(netloc=f"limited:s3cret@{parts.hostname}:{parts.port}").geturl()
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">s3cret", "~*", *(rules or "").split())
        try:
            done = scheduler_process(tmp_path, vhost_url, url if rules else url.replace("s3cret", "wr0ng"))
        finally:
            client.execute_command("ACL", "DELUSER", "limited")
    assert done.returncode == 78, done.stderr
    assert done.stderr.count("\n") == 1
    assert re.match("Redis at .* (does not permit|refused the user or password)", done.stderr)
    assert "s3cret" not in done.stderr
    assert "wr0ng" not in done.stderr


def test_a_scheduler_that_the_broker_refuses_ends_at_once_in_one_line(
    tmp_path: Path, vhost_url: str, redis_url: str
) -> None:
    parts = urlsplit(vhost_url)
    url = parts._replace(netloc=f"nobody:s3cret@{parts.hostname}:{parts.port}").geturl()
    done = scheduler_process(tmp_path, url, redis_url)
    assert done.returncode == 78, done.stderr
    assert done.stderr.count("\n") == 1
    assert "JOBKIT_BROKER_URL" in done.stderr
    assert "s3cret" not in done.stderr


@contextmanager
def broker_user(rabbitmq: RabbitMQ, vhost_url: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The address of a user, and a function that sets what it may write to."""
    name, vhost = f"user-{uuid.uuid4().hex[:8]}", vhost_url.rsplit("/", 1)[1]
    rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})

    def may_write(pattern: str) -> None:
        rights = {"configure": ".*", "write": pattern, "read": ".*"}
        rabbitmq.call("PUT", f"/api/permissions/{vhost}/{name}", rights)

    may_write(".*")
    yield vhost_url.replace("guest:guest", f"{name}:s3cret"), may_write
    rabbitmq.call("DELETE", f"/api/users/{name}")


def test_a_scheduler_that_may_not_publish_ends_at_once_in_one_line(
    tmp_path: Path, vhost_url: str, redis_url: str, rabbitmq: RabbitMQ
) -> None:
    with broker_user(rabbitmq, vhost_url) as (url, may_write):
        may_write("^$")
        done = scheduler_process(tmp_path, url, redis_url)
    assert done.returncode == 78, done.stderr
    assert done.stderr.count("\n") == 1
    assert "ACCESS_REFUSED" in done.stderr
    assert "s3cret" not in done.stderr


def test_a_running_scheduler_that_may_not_publish_any_more_is_unhealthy_until_it_may(
    vhost_url: str,
    registry: RedisSchedules,
    rabbitmq: RabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("jobkit.schedule.scheduler._LOOK", 0.05)
    monkeypatch.setattr("jobkit.schedule.scheduler._RETRY", 0.05)
    stop, refusals, seen = threading.Event(), Refusals(), []
    with broker_user(rabbitmq, vhost_url) as (url, may_write):
        connection = ConnectionSettings([url])
        writing = partial(connection.demand_writing, ways_to("probe"))
        access = Access({STORE: registry.check}, refusals, costly={LOGIN: connection.demand, WRITING: writing})
        access.demand()
        may_write("^other")
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        registry.announce("probe", [Schedule.of("probe", Probe, cron("* * * * *"))], long_ago)
        sender = Sender(connection, app_id="scheduler", refusals=refusals)

        def alive() -> None:
            access.look()
            seen.append(refusals.problems(timedelta()))
            if len(seen) == 20:
                may_write(".*")
            if len(seen) > 20 and not seen[-1]:
                stop.set()
            assert len(seen) < 2000, "it did not recover"

        Scheduler(registry, sender, refusals=refusals).run(stop, alive)
        sender.close()
    assert depth(vhost_url, "probe") == 1
    (text,) = {line for problems in seen for line in problems}
    assert "ACCESS_REFUSED" in text
    assert all(seen[3:20]), "it stays unhealthy"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"{text}; jobs wait until that is mended"]

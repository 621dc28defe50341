"""What one version has noted in records and messages means the same to the version that goes on with it."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from fleet import Fleet
from queues import depth, message_body, publish, wait_for_queue, wait_until_empty
from upgrade_jobs import ShopTask
from versions import Versions
from waiting import wait

from jobkit.execution import DELAY_OPTION, DUE_OPTION

#: Seconds. A send this long before a death is no send whose clock was behind.
LONG_AGO = 1200

#: Seconds that a job is delayed for, so that it is still early when the other version takes over.
DELAY = 8


def body(name: str, job_id: str, *, sent: float, options: dict[str, object] | None = None, first: str = "") -> bytes:
    """A message for the shop that was sent at this moment."""
    return message_body(
        queue_name="shop",
        actor_name=ShopTask.actor,
        kwargs={"name": name, "first": first, "always": bool(first)},
        options=options or {},
        message_id=job_id,
        message_timestamp=int(sent * 1000),
    )


@pytest.mark.timeout(200)
def test_an_older_duplicate_does_not_run_again_after_a_newer_send_died_in_the_version_before(
    fleet: Fleet, versions: Versions
) -> None:
    job_id, now = str(uuid.uuid4()), time.time()
    older = body("twice", job_id, sent=now - LONG_AGO, first="give up")
    shop = fleet.worker(versions.before, "shop")
    publish(fleet.broker, "shop", older)
    wait(lambda: fleet.dead_letters()[job_id] == 1, "the first death")
    publish(fleet.broker, "shop", body("twice", job_id, sent=now, first="give up"))
    wait(lambda: fleet.dead_letters()[job_id] == 2, "the second death")
    wait(lambda: state(fleet, versions, job_id) == "dead", "its record")
    shop = fleet.replace(shop, versions.now)
    publish(fleet.broker, "shop", older)
    wait_until_empty(fleet.broker, "shop")
    fleet.stop(shop)  # with what it holds in its hands
    assert depth(fleet.broker, "shop") == 0
    assert fleet.ledger.counts("start")["twice"] == 2
    assert fleet.dead_letters()[job_id] == 2


@pytest.mark.timeout(200)
def test_a_last_tick_in_the_future_that_the_version_before_has_noted_is_taken_back(
    fleet: Fleet, versions: Versions
) -> None:
    old, new = fleet.client(versions.before), fleet.client(versions.now)
    old.announce_tick()
    old.advance_tick(datetime.now(UTC) + timedelta(days=400))
    assert old.last_tick() > datetime.now(UTC)
    scheduler = fleet.scheduler(versions.now)
    wait(lambda: new.last_tick() <= datetime.now(UTC), "the last tick of a clock that is right")
    scheduler.terminate()
    assert scheduler.wait(20) == 0
    assert old.last_tick() == new.last_tick(), "the version before goes on after it, too"


@pytest.mark.timeout(200)
def test_a_job_that_came_before_its_delay_was_over_is_not_early_after_a_rollback(
    fleet: Fleet, versions: Versions
) -> None:
    job_id, shop = str(uuid.uuid4()), fleet.worker(versions.now, "shop")
    wait_for_queue(fleet.broker, "shop")  # a busy machine may need the whole delay to start a worker
    due = time.time() + DELAY
    options: dict[str, object] = {DUE_OPTION: int(due * 1000), DELAY_OPTION: DELAY * 1000}
    publish(fleet.broker, "shop", body("early", job_id, sent=due - DELAY, options=options))  # as under a message-ttl
    wait(lambda: state(fleet, versions, job_id) == "waiting", "the record of a job that waits")
    shop = fleet.replace(shop, versions.before)
    fleet.books.once.add("early")
    fleet.finish(shop)
    (start,) = [entry for entry in fleet.ledger.entries("start") if entry.name == "early"]
    assert start.at > due - 1.5, "the broker's delays have a resolution of one second"


def state(fleet: Fleet, versions: Versions, job_id: str) -> str | None:
    """Return the state of a task of the shop, as this version reads it."""
    record = fleet.client(versions.now).record(ShopTask, job_id)
    return None if record is None else str(record["state"])

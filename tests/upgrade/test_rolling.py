"""A deployment that replaces one service after the other: nothing is lost, and nothing is done twice."""

import pytest
from batch import KINDS, send_batch
from fleet import SERVICES, Fleet
from sizes import size
from upgrade_jobs import TICK
from versions import Versions

#: Jobs of each kind for each service in one batch.
SIZE = size(1, 30)

#: Seconds for all jobs to end. A busy machine needs most of it.
LIMIT = size(60, 400)

JOBS = SIZE * len(KINDS) * len(SERVICES)


@pytest.mark.prove("rolling deploy", size=f"{JOBS} jobs in a batch")
@pytest.mark.timeout(LIMIT + 200)
@pytest.mark.parametrize("first", ["workers", "producers"])
def test_a_rolling_deploy_loses_no_job_and_runs_none_twice(fleet: Fleet, versions: Versions, first: str) -> None:
    before, now = versions.before, versions.now
    old, new = fleet.client(before), fleet.client(now)
    shop, post = fleet.worker(before, "shop"), fleet.worker(before, "post")
    send_batch(fleet.books, "old", [old], SIZE)
    fleet.let_scheduler_send(before, writer=before)
    if first == "producers":
        send_batch(fleet.books, "new-producer", [new], SIZE)
    shop = fleet.replace(shop, now)
    send_batch(fleet.books, "side-by-side", [new, old], SIZE)
    fleet.let_scheduler_send(now, writer=before)
    post = fleet.replace_killed(post, now)
    send_batch(fleet.books, "new", [new], SIZE)
    fleet.books.once.add(TICK)
    fleet.finish(shop, post, limit=LIMIT)


@pytest.mark.prove("rollback", size=f"{JOBS} jobs in a batch")
@pytest.mark.timeout(LIMIT + 200)
def test_a_rollback_loses_no_job_and_runs_none_twice(fleet: Fleet, versions: Versions) -> None:
    before, now = versions.before, versions.now
    fleet.settings["JOBKIT_KEEP_DONE_RECORDS"] = "true"  # upgrade.md, "Go back"
    old, new = fleet.client(before), fleet.client(now)
    shop, post = fleet.worker(now, "shop"), fleet.worker(before, "post")
    send_batch(fleet.books, "half-deployed", [new, old], SIZE)
    fleet.let_scheduler_send(now, writer=now)
    shop = fleet.replace_killed(shop, before)
    send_batch(fleet.books, "rolled-back", [old, new], SIZE)
    fleet.let_scheduler_send(before, writer=now)
    fleet.books.once.add(TICK)
    fleet.finish(shop, post, limit=LIMIT)

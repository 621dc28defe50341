"""Delayed, waiting and running jobs are under way while a service changes between versions of different topology.

The version before has neither due queues nor exchanges for jobs. The other service stays on it, and producers of both
versions send. No job is lost, none is done twice, and no copy of one multiplies.
"""

import pytest
from batch import Kind, send
from client import Client
from fleet import Fleet
from queues import depth
from sizes import size
from upgrade_jobs import PostTask, ShopTask
from versions import Versions

#: Delayed jobs of each service under way when the shop changes its version.
SIZE = size(8, 500)

#: Seconds of their delay: they must still wait when the shop changes.
DELAY = size(4, 20)

#: Seconds between two attempts.
RETRY_WAIT = size(3, 15)

#: Seconds for all jobs to end. A busy machine needs most of it.
LIMIT = size(60, 400)

#: Jobs that run when the shop stops: one for each of its threads.
RUNNING = 4

DELAYED, RETRIED = Kind(delay=DELAY), Kind({"first": "fail"})
LONG, DELAYED_AND_RETRIED = Kind({"seconds": 2.5, "children": 1}), Kind({"first": "fail"}, delay=1)


@pytest.mark.prove("a new topology, and back", size=f"{2 * SIZE} delayed jobs under way at each change")
@pytest.mark.timeout(2 * LIMIT + 200)
def test_a_service_changes_its_topology_and_goes_back_while_another_keeps_the_old_one(
    fleet: Fleet, versions: Versions
) -> None:
    fleet.settings["UPGRADE_RETRY_WAIT"] = str(RETRY_WAIT)
    fleet.settings["JOBKIT_KEEP_DONE_RECORDS"] = "true"  # upgrade.md, "Go back"
    both = [fleet.client(versions.before), fleet.client(versions.now)]
    shop, post = fleet.worker(versions.before, "shop"), fleet.worker(versions.before, "post")
    for change in (versions.now, versions.before):
        leave_under_way(fleet, fleet.client(shop.version), change.name)
        fleet.stop(shop)
        shop = fleet.worker(change, "shop")
        for number in range(SIZE):
            for contract in (ShopTask, PostTask):
                name = f"{change.name}-{contract.__name__}-{number}"
                send(fleet.books, contract(name=f"delayed-{name}"), Kind(delay=1), both)
                job = contract(name=f"retried-{name}", first="fail")
                send(fleet.books, job, DELAYED_AND_RETRIED, both)
    fleet.finish(shop, post, limit=LIMIT)
    starts = fleet.ledger.counts("start")
    checked = {
        name for name in fleet.books.once if not name.startswith("running")
    }  # which are interrupted, and begin again
    assert {name: starts[name] for name in checked} == {n: 1 + n.startswith("retried") for n in checked}
    assert depth(fleet.broker, "jobkit.dlq") == 0, "every delayed job had a queue"


def leave_under_way(fleet: Fleet, client: Client, label: str) -> None:
    """Send jobs that wait or run when the shop stops, and return when those that are retried have failed once."""
    begun = []
    for number in range(SIZE):
        for title, kind in (("retried", RETRIED), ("delayed", DELAYED)):
            job = ShopTask.model_validate({"name": f"{title}-{label}-{number}", **kind.fields})
            send(fleet.books, job, kind, [client])
        begun.append(f"retried-{label}-{number}")
        send(fleet.books, PostTask(name=f"delayed-mail-{label}-{number}"), DELAYED, [client])
    for number in range(RUNNING):
        job = ShopTask.model_validate({"name": f"running-{label}-{number}", **LONG.fields})
        send(fleet.books, job, LONG, [client])
        begun.append(job.name)
    fleet.ledger.wait(lambda ledger: set(begun) <= set(ledger.counts("start")), limit=60, what="the first runs")

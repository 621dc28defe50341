"""All workers of one version are killed, and another version goes on with what they left in broker and store."""

import pytest
from batch import Kind, send
from client import Client
from fleet import Fleet, Worker
from ledger import Ledger
from letters import move
from sizes import size
from states import states, wait_for_state
from upgrade_jobs import ATTEMPTS, BREAKER, PAUSE, PostTask, ShopCall, ShopTask
from versions import Version, Versions
from waiting import wait

#: Jobs in each state.
SIZE = size(2, 60)

#: Jobs that run when the workers are killed: one for each thread of the shop's worker.
RUNNING = 4

#: What the first version leaves behind, by the state that the jobs are in when its workers are killed.
LEFT = {
    "done": Kind(),
    "revived": Kind({"first": "give up"}),
    "retried": Kind({"first": "fail"}),
    "snoozed": Kind({"first": "snooze"}),
    "doomed": Kind({"first": "fail", "always": True}, dies=True),
    "delayed": Kind(delay=5),
    "running": Kind({"seconds": 2, "children": 1}),
    "queued": Kind(lane="high"),
}

#: Seconds between two attempts: the jobs must still wait when the workers are killed.
RETRY_WAIT = size(5, 20)

#: Seconds for all jobs to end. A busy machine needs most of it.
LIMIT = size(60, 400)


@pytest.fixture(params=["upgrade", "downgrade"])
def pair(request: pytest.FixtureRequest, versions: Versions) -> tuple[Version, Version]:
    """The version that leaves the jobs behind, and the one that takes them over."""
    return (versions.before, versions.now) if request.param == "upgrade" else (versions.now, versions.before)


@pytest.mark.prove("takeover of waiting, delayed, retried, running, done and dead jobs", size=f"{SIZE} in each state")
@pytest.mark.timeout(LIMIT + 200)
def test_what_one_version_left_behind_the_other_version_finishes(
    fleet: Fleet, versions: Versions, pair: tuple[Version, Version]
) -> None:
    first, second = (fleet.client(version) for version in pair)
    fleet.settings["UPGRADE_RETRY_WAIT"] = str(RETRY_WAIT)
    if pair[0] is versions.now:
        fleet.settings["JOBKIT_KEEP_DONE_RECORDS"] = "true"  # upgrade.md, "Go back"
    fleet.begin_outage()
    shop, post = fleet.worker(pair[0], "shop"), fleet.worker(pair[0], "post")
    done, revived = tasks(fleet, first, "done"), tasks(fleet, first, "revived")
    wait_for_state(first, "done", done)
    resent = dying_mail(fleet, first)
    wait_for_state(first, "dead", revived)
    wait_for_state(first, "dead", list(resent), PostTask)
    fleet.books.dead.update(resent)
    calls(fleet, first, "call", count=4)  # the outage opens the breaker
    wait(lambda: first.is_breaker_open(BREAKER), "the breaker")
    waiting = [job for title in ("retried", "snoozed", "doomed") for job in tasks(fleet, first, title)]
    wait_for_state(first, "waiting", waiting)
    delayed, running = tasks(fleet, first, "delayed"), tasks(fleet, first, "running", RUNNING)
    wait_for_state(first, "running", running)
    children = [PostTask(name=f"running-{number}/0") for number in range(RUNNING)]
    ids = [first.child_id(ShopTask, parent, child) for parent, child in zip(running, children, strict=True)]
    wait_for_state(first, "done", ids, PostTask)
    queued = tasks(fleet, first, "queued")
    fleet.kill(shop, post)
    assert states(first, done) == {"done"}
    assert states(first, waiting) == {"waiting"}, "killed before they were due"
    assert states(first, [*delayed, *queued]) == {None}, "they have not started"

    for title in LEFT.keys() - {"revived", "doomed", "running"}:
        tasks(fleet, second, title)
    tasks(fleet, second, "running", RUNNING)
    move(fleet.broker, "shop")
    assert dying_mail(fleet, second) == resent, "a job that died runs again if it is sent again"
    calls(fleet, first, "later-call", count=4)
    assert second.is_breaker_open(BREAKER)
    shop, post = fleet.worker(pair[1], "shop"), fleet.worker(pair[1], "post")
    assert seconds_between_probes(fleet, shop) > PAUSE - 0.5, "one job probes in each pause, and the others wait"
    fleet.end_outage()
    fleet.finish(shop, post, limit=LIMIT)

    for job_id in done:
        assert second.record(ShopTask, job_id) == first.record(ShopTask, job_id)
    results = [second.record(ShopTask, job_id) for job_id in done]
    assert [row and row["result"] for row in results] == [{"name": f"done-{n}"} for n in range(SIZE)]
    starts = fleet.ledger.counts("start")
    assert {starts[f"doomed-{n}"] for n in range(SIZE)} == {ATTEMPTS}, "the attempts of both versions count"
    for record in (second.record(ShopTask, job_id) for job_id in running):
        assert record is not None
        assert (record["crashes"], record["attempt"]) == (1, 2), "the run that was killed counts as a crash"


def tasks(fleet: Fleet, client: Client, title: str, count: int = SIZE) -> list[str]:
    """Send so many tasks of one kind to the shop, and return their ids."""
    kind = LEFT[title]
    named = ({"name": f"{title}-{number}", **kind.fields} for number in range(count))
    return [send(fleet.books, ShopTask.model_validate(fields), kind, [client]) for fields in named]


def dying_mail(fleet: Fleet, client: Client) -> dict[str, str]:
    """Send tasks to the post that die at their first run, and return their names by their ids."""
    mail = [PostTask(name=f"resent-{number}", first="give up") for number in range(SIZE)]
    return {send(fleet.books, task, Kind(), [client]): task.name for task in mail}


def calls(fleet: Fleet, client: Client, title: str, count: int) -> None:
    """Send so many calls."""
    for name in (f"{title}-{number}" for number in range(count)):
        client.send(ShopCall(name=name), key=name)
        fleet.books.once.add(name)


def seconds_between_probes(fleet: Fleet, shop: Worker) -> float:
    """Return the seconds between the first two calls that a worker starts."""

    def probes(ledger: Ledger) -> list[float]:
        pids = shop.pids()
        return [entry.at for entry in ledger.entries("start") if entry.pid in pids and "call-" in entry.name]

    fleet.ledger.wait(lambda ledger: len(probes(ledger)) > 1, what="two probes")
    one, two = probes(fleet.ledger)[:2]
    return two - one

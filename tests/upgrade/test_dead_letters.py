"""Dead letters cross the versions: what died in one is sent again in the other, and back.

Jobs are waiting, delayed and running at each change, the other service stays on the version before, and producers of
both versions send. Each send of a dead letter is one more run. No job is lost, and none is done twice.
"""

from collections.abc import Callable

import pytest
from batch import Kind, send
from fleet import Fleet
from letters import move, send_again
from sizes import size
from states import wait_for_state
from upgrade_jobs import PostTask, ShopTask
from versions import Version, Versions
from waiting import wait

#: Jobs of each kind at each stage.
SIZE = size(2, 60)

#: Seconds between two attempts, and of a delay: both must last beyond the change.
WAIT = size(4, 20)

#: Seconds for all jobs to end. A busy machine needs most of it.
LIMIT = size(60, 400)

#: Jobs that run when the shop stops.
RUNNING = 2

HOPELESS = Kind({"first": "give up", "always": True}, dies=True)

#: What is under way when the shop changes its version.
UNDER_WAY = {
    "retried": Kind({"first": "fail"}),
    "delayed": Kind(delay=WAIT),
    "plain": Kind(),
    "parent": Kind({"children": 2}),
}

Tool = Callable[[str, str], int]


@pytest.mark.prove("dead letters sent again across versions", size=f"{4 * SIZE} dead letters of each kind")
@pytest.mark.timeout(LIMIT + 300)
@pytest.mark.parametrize("tool", [move, send_again], ids=["moved as they are", "by the command"])
@pytest.mark.parametrize("way", ["upgrade and back", "rollback and on"])
def test_what_died_in_one_version_runs_once_more_in_the_other(
    fleet: Fleet, versions: Versions, way: str, tool: Tool
) -> None:
    stages = [versions.before, versions.now, versions.before, versions.now]
    if way == "rollback and on":
        stages = stages[1:] + stages[:1]
    fleet.settings["UPGRADE_RETRY_WAIT"] = str(WAIT)
    fleet.settings["JOBKIT_KEEP_DONE_RECORDS"] = "true"  # upgrade.md, "Go back"
    post, shop = fleet.worker(versions.before, "post"), fleet.worker(stages[0], "shop")
    hopeless = tasks(fleet, stages[0], "hopeless", HOPELESS)
    for number, version in enumerate(stages):
        if number:
            fleet.stop(shop)
            shop = fleet.worker(version, "shop")
            assert tool(fleet.broker, "shop") == 2 * SIZE, "what died at the last stage"
        returning = tasks(fleet, stages[number - 1], f"returning-{number}", Kind({"first": "give up"}))
        wait_for_runs(fleet, hopeless, number + 1)
        wait_for_state(fleet.client(version), "dead", [*hopeless, *returning])
        wait_for_letters(fleet, [*hopeless, *returning])
        leave_under_way(fleet, versions, number)
    assert tool(fleet.broker, "shop") == 2 * SIZE
    wait_for_runs(fleet, hopeless, len(stages) + 1)
    fleet.finish(shop, post, limit=LIMIT)

    starts = fleet.ledger.counts("start")
    assert {starts[fleet.books.dead[job]] for job in hopeless} == {len(stages) + 1}
    once_more = {name for name in fleet.books.once if name.startswith(("returning", "retried"))}
    assert {name: starts[name] for name in once_more} == dict.fromkeys(once_more, 2)


def tasks(fleet: Fleet, version: Version, title: str, kind: Kind) -> list[str]:
    """Let the producer of a version send tasks of one kind to the shop, and return their ids."""
    named = (ShopTask.model_validate({"name": f"{title}-{number}", **kind.fields}) for number in range(SIZE))
    return [send(fleet.books, job, kind, [fleet.client(version)]) for job in named]


def leave_under_way(fleet: Fleet, versions: Versions, stage: int) -> None:
    """Send jobs that wait, run or are delayed when the shop stops, by the producers of both versions."""
    both = [fleet.client(versions.before), fleet.client(versions.now)]
    begun = []
    for number in range(SIZE):
        for title, kind in UNDER_WAY.items():
            for contract in (ShopTask, PostTask):
                name = f"{title}-{stage}-{contract.__name__}-{number}"
                send(fleet.books, contract.model_validate({"name": name, **kind.fields}), kind, both)
                begun += [name] if title == "retried" else []
    for number in range(RUNNING):
        job = ShopTask(name=f"running-{stage}-{number}", seconds=2.5, children=1)
        send(fleet.books, job, Kind({"children": 1}), both)
        begun.append(job.name)
    fleet.ledger.wait(lambda ledger: set(begun) <= set(ledger.counts("start")), limit=60, what="the first runs")


def wait_for_runs(fleet: Fleet, job_ids: list[str], count: int) -> None:
    """Return once each of the jobs has begun so many runs."""
    names = [fleet.books.dead[job_id] for job_id in job_ids]
    wait(lambda: all(fleet.ledger.counts("start")[name] >= count for name in names), f"run {count} of {names[0]} …")


def wait_for_letters(fleet: Fleet, job_ids: list[str]) -> None:
    """Return once each of the jobs has its dead letter, and no other job has one."""
    wait(lambda: fleet.dead_letters() == dict.fromkeys(job_ids, 1), "the dead letters")

"""The states of jobs, as the records show them to a client of any version."""

from client import Client
from upgrade_jobs import ShopTask
from waiting import wait

from jobkit.contracts import Job


def states(client: Client, job_ids: list[str], contract: type[Job] = ShopTask) -> set[str | None]:
    """Return the states that the jobs' records show to this client."""
    records = (client.record(contract, job_id) for job_id in job_ids)
    return {record["state"] if record else None for record in records}


def wait_for_state(client: Client, state: str, job_ids: list[str], contract: type[Job] = ShopTask) -> None:
    """Return once the records of all jobs have the state."""
    wait(lambda: states(client, job_ids, contract) == {state}, f"the state {state}")

"""``jobkit status``: what the store knows of one job."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime

import typer

from jobkit.cli.output import iso, moment, print_blocks, print_json, readable, times
from jobkit.cli.platform import one_line_errors, platform
from jobkit.nearest import nearest
from jobkit.schedule.registry import RedisSchedules
from jobkit.store.base import JobKey, JobRecord, JobState
from jobkit.store.redis import RedisStore
from jobkit.store.redis_client import RedisClient
from jobkit.store.redis_server import RedisServer
from jobkit.store.room import why_jobs_wait


def show(actor: str, job_id: str, *, service: str | None, as_json: bool) -> None:
    """Print the job's record; exit status 1 if there is none, or more than one service has such a job."""
    settings = platform()
    url, timeout, namespace = settings.store_url, settings.store_timeout_seconds, settings.namespace
    with (
        one_line_errors(),
        closing(RedisStore(url, timeout=timeout, namespace=namespace)) as store,
        closing(RedisClient(url, timeout)) as client,
    ):
        registry = RedisSchedules(url, timeout, namespace)
        services = registry.services() if service is None else [service]
        found = [record for name in services if (record := store.record(JobKey(name, actor, job_id))) is not None]
        now = registry.now()  # the clock that the record's times are from
        memory = RedisServer(client).memory()
        complaint = "" if found else unknown(actor, job_id, service, registry.services(), registry.actors())
    if memory is not None and memory.is_full:
        typer.echo(why_jobs_wait(memory), err=True)
    if complaint:
        typer.echo(complaint, err=True)
        raise typer.Exit(1)
    if len(found) > 1:
        names = ", ".join(record.job.service for record in found)
        typer.echo(f"{actor} {job_id} is a job of several services ({names}): say which by --service", err=True)
        raise typer.Exit(1)
    record = found[0]
    if as_json:
        print_json(document(record, now))
    else:
        print_blocks([block(record, now)])


def unknown(
    actor: str, job_id: str, service: str | None, services: Sequence[str], actors: Mapping[str, Sequence[str]]
) -> str:
    """Return why a job has no record, as far as what workers have announced tells it.

    Args:
        actor: The job's actor.
        job_id: Its id.
        service: Its service, if one was given.
        services: All services whose workers have ever run.
        actors: Their actors. Workers of an older version announce none.
    """
    if service is not None and services and service not in services:
        return f"no service {service!r} has run with this store{_meant(service, services)}"
    known = [one for name, listed in actors.items() if service in (None, name) for one in listed]
    if actor in known or not known:
        return f"nothing is known of {actor} {job_id}: it has not started, or its record has expired"
    owners = [name for name, listed in actors.items() if actor in listed]
    hint = f": it is one of {', '.join(owners)}" if owners else _meant(actor, known)
    return f"no worker of {service or 'any service'} has announced an actor {actor!r}{hint}"


def _meant(written: str, names: Sequence[str]) -> str:
    found = nearest(written, names)
    return f": did you mean {found!r}?" if found else f", only {', '.join(sorted(names))}"


def block(record: JobRecord, now: datetime) -> Mapping[str, str]:
    """The record for people; what is not known has no value."""
    return {
        "job": record.job.id,
        "service": record.job.service,
        "actor": record.job.actor,
        "state": record.state.value,
        "lease": _lease(record, now),
        "attempt": str(record.attempt),
        "crashes": str(record.crashes or ""),
        "sent again": times(record.round),
        "started": readable(moment(record.started_at)),
        "finished": readable(moment(record.finished_at)),
        "due": readable(moment(record.due_at)),
        "waits for": record.waits_for,
        "percent": f"{record.percent:g}" if record.percent else "",
        "step": record.step,
        "note": record.note,
        "failure": record.failure,
        "result": record.result.decode(errors="backslashreplace"),
    }


def document(record: JobRecord, now: datetime) -> Mapping[str, object]:
    """The record for programs: every field is there, null where nothing is known."""
    return {
        "job_id": record.job.id,
        "service": record.job.service,
        "actor": record.job.actor,
        "state": record.state.value,
        "lease_until": iso(moment(record.lease_until)),
        "lease_is_over": _is_over(record, now),
        "attempt": record.attempt,
        "crashes": record.crashes,
        "fence": record.fence,
        "round": record.round,
        "started_at": iso(moment(record.started_at)),
        "finished_at": iso(moment(record.finished_at)),
        "due_at": iso(moment(record.due_at)),
        "waits_for": record.waits_for or None,
        "percent": record.percent,
        "step": record.step,
        "note": record.note,
        "failure": record.failure or None,
        "result": json.loads(record.result) if record.result else None,
    }


def _lease(record: JobRecord, now: datetime) -> str:
    until = moment(record.lease_until)
    if record.state is not JobState.RUNNING or until is None:
        return ""
    if _is_over(record, now):
        return f"over since {readable(until)}: its worker died or lost the store, and the job waits for a worker"
    return f"until {readable(until)}, renewed while its worker lives"


def _is_over(record: JobRecord, now: datetime) -> bool:
    until = moment(record.lease_until)
    return until is not None and until <= now

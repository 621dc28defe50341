"""Putting a worker together: which middleware surrounds its jobs, in which order, and why."""

import os
import pathlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import dramatiq
from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.access import Access, Check, refuse_other_generations
from jobkit.breaker.exercise import exercise_switches
from jobkit.breaker.switches import Switches
from jobkit.broker.detours import ways_to
from jobkit.broker.ladder import level_name
from jobkit.broker.memory import MemoryBroker
from jobkit.broker.policies import Policies
from jobkit.broker.rabbitmq import JobBroker
from jobkit.children import Children
from jobkit.contracts.job import Job, lane_queue
from jobkit.errors import SettingsError
from jobkit.interrupts import Interrupts
from jobkit.interrupts.origin import homes_of
from jobkit.leases import LeaseKeeper
from jobkit.middleware import logs, tracing
from jobkit.middleware.breakers import Breakers
from jobkit.middleware.entry import Entry
from jobkit.middleware.health import Health
from jobkit.middleware.idempotency import Idempotency
from jobkit.middleware.lifespan import Lifespan
from jobkit.middleware.logs import LogFormat
from jobkit.middleware.observing import Observing
from jobkit.middleware.policy_watch import PolicyWatch
from jobkit.middleware.preflight import Preflight
from jobkit.middleware.retries import Retries
from jobkit.middleware.shutdown import Shutdown, stop_limit
from jobkit.middleware.sign_of_life import note_replacement
from jobkit.middleware.stuck_jobs import Replacement, StuckJobs
from jobkit.middleware.telemetry_export import TelemetryExport
from jobkit.observers import Observer
from jobkit.patience import Patience
from jobkit.process import Identity
from jobkit.producer import SendsMessages
from jobkit.refusals import LOGIN
from jobkit.run.carrier import Carrier
from jobkit.run.path import Path
from jobkit.run.seams import Seams
from jobkit.run.watch import watching
from jobkit.runner import ActorDeclaration, Runner
from jobkit.schedule.announce import Announce
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.schedule import Schedule
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import GENERATION, JobStore, Process
from jobkit.store.exercise import RECORD_TTL, exercise
from jobkit.store.redis import RedisStore
from jobkit.store.redis_client import RedisClient
from jobkit.store.redis_server import RedisServer
from jobkit.store.room import Room
from jobkit.waits import Limits

if TYPE_CHECKING:
    from jobkit.middleware.sentry import Sentry

R = TypeVar("R")


@dataclass(frozen=True)
class Assembly(Generic[R]):
    """Everything that one worker is made of."""

    name: str
    actors: Mapping[str, ActorDeclaration[R]]
    platform: PlatformSettings
    settings: ServiceSettings
    open_resources: Callable[[], AbstractContextManager[R]]
    store: JobStore
    switches: Switches
    sender: SendsMessages
    observers: Sequence[Observer] = ()

    def install(self, broker: JobBroker | MemoryBroker, *, process_of_its_own: bool) -> None:
        """Give ``broker`` the middleware and declare the actors and their lanes on it."""
        lifespan, over = Lifespan(self.open_resources), threading.Event()
        interrupts = Interrupts(homes_of(actor.function for actor in self.actors.values()))
        refusals = broker.refusals if isinstance(broker, JobBroker) else None
        observing = Observing(self.observers, {name: actor.observers for name, actor in self.actors.items()})
        observed = [observing] if observing.is_used else []
        patience = Patience(broker.stopping, over, refusals=refusals, tell=observing.error)
        ttl = timedelta(seconds=self.platform.lease_seconds)
        keeper = LeaseKeeper(self.store, interrupts, ttl, self._describe, refusals, tell=observing.error)
        reports = self._error_reports()
        path = self._path(broker, patience, keeper, observed, reports)
        middleware: list[Middleware] = [
            *observed,  # have their time after the last job's record is written
            *reports,
            Shutdown(broker.stopping, over, interrupts, stop_limit(self.settings), keeper.abandon),
            lifespan,  # closed only after the last job's record is written
            Carrier(path, Seams(self.store, ttl), logs.together),
        ]
        if process_of_its_own:
            after = timedelta(seconds=self.platform.stuck_seconds)
            note = self._note_replacement
            stuck = StuckJobs(interrupts, Replacement(after, stop_limit(self.settings), keeper.let_lapse, note))
            # First, so that its hook after the shutdown comes last: then it kills the process.
            middleware = [stuck, *self._operations(broker, stuck), *middleware]
        else:
            middleware = [StuckJobs(interrupts), *middleware]
        for one in middleware:
            broker.add_middleware(one)
        children = Children(self.sender, patience, interrupts, self.store)
        started = observing.started if observing.is_used else None
        self._declare(broker, Runner(self.store, children, lifespan, interrupts, broker.stopping, started))

    def _path(
        self,
        broker: JobBroker | MemoryBroker,
        patience: Patience,
        keeper: LeaseKeeper,
        observed: Sequence[Observing],
        reports: "Sequence[Sentry]",
    ) -> Path:
        """The steps that every job takes."""
        limits = Limits(
            excuse=timedelta(seconds=self.platform.record_ttl_seconds),
            rollout=timedelta(seconds=self.platform.rollout_seconds),
            retry_after=timedelta(seconds=self.platform.longest_retry_after_seconds),
        )
        return Path(
            Idempotency(
                self.store,
                broker,
                patience,
                keeper.store_was_away,
                recent_deaths=keeper.recent_deaths,
                max_crashes=self.platform.max_crashes,
            ),
            Breakers(self.switches, patience, self.name, excused_for=limits.excuse),
            Retries(broker, patience),
            keeper,
            patience,
            limits,
            # The span is around every line and every report. Observers are told after them: they take the exception.
            watching(*(one.watch for one in observed), tracing.span, logs.lines, *(report.scope for report in reports)),
        )

    def _describe(self, identity: Identity) -> Process:
        """What the heartbeat of a worker process says of it."""
        queues = sorted({queue for declared in self.actors.values() for queue in _queues(declared.contract)})
        return Process(
            identity.name,
            self.name,
            socket.gethostname(),
            os.getpid(),
            tuple(queues),
            GENERATION,
            identity.started_at,
        )

    def _note_replacement(self) -> None:
        if self.platform.health_folder is not None:
            note_replacement(self.platform.health_folder, self.platform.max_crashes)

    def _operations(self, broker: JobBroker | MemoryBroker, stuck: StuckJobs) -> list[Middleware]:
        """What only a process of its own needs. Its ``after_*`` hooks come last, so telemetry is flushed then."""
        operations: list[Middleware] = [LogFormat(self.platform.log_format, self.platform.log_level)]
        if self.platform.traces_endpoint or self.platform.metrics_endpoint:
            endpoints = self.platform.traces_endpoint, self.platform.metrics_endpoint
            operations.append(TelemetryExport(*endpoints, f"{self.name}-service"))
        server = RedisServer(RedisClient(self.platform.store_url, self.platform.store_timeout_seconds))
        room = Room(server.memory)
        if self.platform.health_folder and isinstance(broker, JobBroker):
            operations.append(self._health(self.platform.health_folder, broker, stuck, room))
        registry = RedisSchedules(self.platform.store_url, self.platform.store_timeout_seconds, self.platform.namespace)
        # Even if there are none: there may have been some before.
        refusals = broker.refusals if isinstance(broker, JobBroker) else None
        operations.append(Announce(self.name, self._schedules(), registry, list(self.actors), refusals))
        queues = {name: _queues(declared.contract) for name, declared in self.actors.items()}
        operations.append(Preflight(self.platform, self.settings, queues))
        if isinstance(broker, JobBroker):
            operations.append(self._entry(broker, registry, server, room))
            if (management := self.platform.management_url) is not None:
                policies = Policies(management.get_secret_value(), broker.connection_settings)
                operations.append(PolicyWatch(policies))
        return operations

    def _health(self, folder: pathlib.Path, broker: JobBroker, stuck: StuckJobs, room: Room) -> Health:
        bound = timedelta(seconds=self.platform.refusal_limit_seconds)
        refused = partial(broker.refusals.problems, bound)
        stall = self.platform.health_stall_seconds
        return Health(folder, stall, broker.reach, [refused], [stuck.problems], notes=room.notes)

    def _entry(self, broker: JobBroker, schedules: RedisSchedules, server: RedisServer, room: Room) -> Entry:
        url, timeout = self.platform.store_url, self.platform.store_timeout_seconds
        store = RedisStore(url, RECORD_TTL, timeout, self.platform.namespace)
        checks: dict[str, Check] = {
            "the kind of job store": server.refuse_cluster,
            "the job store": lambda: exercise(store, self.name),
            "the other workers": lambda: refuse_other_generations(self.store, self.name),
            "the store of breakers": lambda: exercise_switches(self.switches, self.name),
            "the store of schedules": schedules.check_announcing,
        }
        connection = broker.connection_settings
        # Nobody reports the second one: jobs write to several exchanges, and only they know whether that works again.
        writing = partial(connection.demand_writing, ways_to(self.name), [level_name(0)])  # one level stands for all
        costly: dict[str, Check] = {LOGIN: connection.demand, "the first message": writing}
        return Entry(Access(checks, broker.refusals, costly=costly), server.advice, room)

    def _schedules(self) -> list[Schedule]:
        schedules = []
        for name, declared in self.actors.items():
            if declared.periodic is not None:
                try:
                    schedules.append(Schedule.of(self.name, declared.contract, declared.periodic))
                except ValueError as error:
                    raise SettingsError(f"{self.name}.{name}: {error}") from None
        return schedules

    def _error_reports(self) -> "list[Sentry]":
        if self.platform.sentry_dsn is None:
            return []
        from jobkit.middleware.sentry import Sentry

        return [Sentry(self.platform.sentry_dsn.get_secret_value(), self.platform.environment)]

    def _declare(self, broker: Broker, runner: Runner[R]) -> None:
        for name, declared in self.actors.items():
            declare = dramatiq.actor(
                actor_name=name,
                queue_name=declared.contract.queue,
                broker=broker,
                retry=declared.retry,
                time_limit=declared.time_limit,
                breaker=declared.breaker,
                dead_letter=declared.dead_letter,
            )
            declare(runner.bind(declared))
            for one in _queues(declared.contract):
                broker.declare_queue(one)


def _queues(contract: type[Job]) -> list[str]:
    """The queue of a contract and those of its lanes."""
    return [lane_queue(contract, lane) for lane in contract.lanes]

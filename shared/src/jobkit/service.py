"""A service: its name, its actors and what its workers open."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Generic, TypeVar

from jobkit.actor_function import refuse_what_does_not_run
from jobkit.assembly import Assembly
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.breaker.redis import RedisSwitches
from jobkit.breaker.switches import MemorySwitches, Switches
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarer import Declarer
from jobkit.broker.memory import MemoryBroker, MemoryExchange
from jobkit.broker.rabbitmq import JobBroker
from jobkit.broker.sender import Sender
from jobkit.context import Context
from jobkit.contracts.job import TAKEN_SERVICES, Job, lane_queue, service_of
from jobkit.defaults import refuse_what_cannot_be_periodic
from jobkit.middleware.retries import DEFAULT_POLICY
from jobkit.middleware.time_limit import DEFAULT_TIME_LIMIT
from jobkit.observers import Observer
from jobkit.observers.observer import checked_observer
from jobkit.producer import SendsMessages
from jobkit.refusals import Refusals
from jobkit.retry import RetryPolicy
from jobkit.runner import ActorDeclaration, LargeResult
from jobkit.schedule.cron import Cron
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import JobStore
from jobkit.store.redis import RedisStore

S = TypeVar("S", bound=ServiceSettings)
R = TypeVar("R")
J = TypeVar("J", bound=Job)
T = TypeVar("T")


class Service(Generic[S, R]):
    """Declares a service's actors, and builds the broker that runs them.

    >>> service = Service("reports", lifespan=open_warehouse)                  # doctest: +SKIP
    >>> @service.actor(BuildReport, time_limit=minutes(5))                     # doctest: +SKIP
    ... def build_report(job: BuildReport, context: Context[Resources]) -> Report: ...

    Args:
        name: Also the first word of the names of its queues.
        lifespan: Opens the service's resources from its settings, once in each worker process.
        retry: The retry policy of actors that have none of their own.
        time_limit: The time limit of actors that have none of their own.
        observers: Are told what becomes of all jobs, and of errors of broker and store.
    """

    def __init__(
        self,
        name: str,
        *,
        lifespan: Callable[[S], AbstractContextManager[R]],
        retry: RetryPolicy = DEFAULT_POLICY,
        time_limit: timedelta = DEFAULT_TIME_LIMIT,
        observers: Sequence[Observer] = (),
    ) -> None:
        if name in TAKEN_SERVICES:
            raise TypeError(f"a service cannot be named {name!r}: queues of that name are jobkit's own")
        self.name = name
        self.observers = [checked_observer(observer) for observer in observers]
        self._retry, self._time_limit = retry, time_limit
        self.actors: dict[str, ActorDeclaration[R]] = {}
        self._lifespan = lifespan

    def actor(
        self,
        contract: type[J],
        *,
        retry: RetryPolicy | None = None,
        time_limit: timedelta | None = None,
        periodic: Cron | None = None,
        breaker: CircuitBreaker | None = None,
        large_result: LargeResult = "fail",
        observers: Sequence[Observer] = (),
        dead_letter: bool = True,
    ) -> Callable[[Callable[[J, Context[R]], T]], Callable[[J, Context[R]], T]]:
        """Declare the function that runs jobs of ``contract``. The function itself stays as it is.

        Args:
            contract: The jobs; its queue must belong to this service.
            retry: What happens when the function raises; None stands for the service's policy.
            time_limit: After this long the job is interrupted, a failed attempt; None stands for the service's.
            periodic: Also run it by this schedule; the contract's fields must all have defaults.
            breaker: What the jobs depend on, and when they wait for it.
            large_result: What becomes of a result above 256 KiB. ``"fail"``: the job is a dead letter, though its work
                is done. ``"drop"``: the job is done, and its record has no result.
            observers: Are told what becomes of these jobs, after those of the service.
            dead_letter: Whether what cannot succeed becomes a dead letter. False: it is counted, logged and dropped.
        """
        if not contract.queue:
            raise TypeError(f"{contract.__name__} names no queue: class {contract.__name__}(Job, queue={self.name!r})")
        if service_of(contract.queue) != self.name:
            raise TypeError(f"{contract.__name__} goes to queue {contract.queue!r}, which is not {self.name}'s")
        if contract.actor in self.actors:
            raise TypeError(f"{self.name} has two actors for {contract.__name__}")
        others = [other.breaker for other in self.actors.values() if other.breaker and other.breaker != breaker]
        if breaker is not None and breaker.name in {other.name for other in others}:
            raise TypeError(f"{self.name} has two breakers named {breaker.name!r}, which differ")
        if periodic is not None:
            refuse_what_cannot_be_periodic(contract)  # here, and not at three in the morning

        own_observers = [checked_observer(observer) for observer in observers]

        def declare(function: Callable[[J, Context[R]], T]) -> Callable[[J, Context[R]], T]:
            refuse_what_does_not_run(contract.actor, function)
            policy = self._retry if retry is None else retry
            limit = self._time_limit if time_limit is None else time_limit
            self.actors[contract.actor] = ActorDeclaration(
                contract, function, policy, limit, periodic, breaker, large_result, own_observers, dead_letter
            )
            return function

        return declare

    @property
    def queues(self) -> list[str]:
        """The queues of its actors, with all lanes, sorted."""
        contracts = (actor.contract for actor in self.actors.values())
        return sorted({lane_queue(contract, lane) for contract in contracts for lane in contract.lanes})

    def build(self, platform: PlatformSettings, settings: S) -> JobBroker:
        """The broker of a worker process, on RabbitMQ and Redis. Nothing is connected yet."""
        connection = ConnectionSettings(
            platform.broker_urls,
            platform.heartbeat_seconds,
            platform.connect_timeout_seconds,
            name=f"{self.name}-worker",
        )
        declarer = Declarer(platform.declare)
        refusals = Refusals()
        sender = Sender(
            connection,
            app_id=f"{self.name}-service",
            timeout=platform.send_timeout_seconds,
            max_bytes=platform.max_message_bytes,
            declarer=declarer,
            refusals=refusals,
        )
        ttl = timedelta(seconds=platform.record_ttl_seconds)
        kept = timedelta(seconds=platform.result_ttl_seconds)
        store = RedisStore(
            platform.store_url,
            ttl,
            platform.store_timeout_seconds,
            platform.namespace,
            kept,
            keep_done=platform.keep_done_records,
        )
        rollout = timedelta(seconds=platform.rollout_seconds)
        broker = JobBroker(
            connection, sender, prefetch=settings.prefetch, rollout=rollout, refusals=refusals, declarer=declarer
        )
        switches = RedisSwitches(platform.store_url, platform.store_timeout_seconds, platform.namespace)
        self._assembly(platform, settings, store, switches, sender).install(broker, process_of_its_own=True)
        return broker

    def embed(self, exchange: MemoryExchange, store: JobStore, platform: PlatformSettings, settings: S) -> MemoryBroker:
        """The broker of a worker inside this process, its queues in memory; the same code otherwise."""
        broker = MemoryBroker(exchange)
        self._assembly(platform, settings, store, MemorySwitches(), exchange).install(broker, process_of_its_own=False)
        return broker

    def _assembly(
        self, platform: PlatformSettings, settings: S, store: JobStore, switches: Switches, sender: SendsMessages
    ) -> Assembly[R]:
        return Assembly(
            name=self.name,
            actors=self.actors,
            platform=platform,
            settings=settings,
            open_resources=lambda: self._lifespan(settings),
            store=store,
            switches=switches,
            sender=sender,
            observers=self.observers,
        )

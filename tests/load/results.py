"""What the benchmark measured, as it is kept beside the page that shows it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Kept):
    """Where a run took place.

    Attributes:
        day: In ISO's form.
        processor: Its model.
        cores: How many.
        memory_gb: The machine's memory.
        system: The operating system.
        versions: Of servers and packages, by their names.
    """

    day: str
    processor: str
    cores: int
    memory_gb: float
    system: str
    versions: dict[str, str]


class Drain(_Kept):
    """How workers emptied a queue, between the start of the first job and that of the last.

    Attributes:
        per_second: Jobs in a second.
        worker_ms: Time on the processors for each job, in milliseconds: of all processes of the worker …
        broker_ms: … of RabbitMQ …
        store_ms: … and of Redis.
        fullness: The part of the machine's cores that was busy, from 0 to 1 …
        others: … and the part that other processes than these used: the benchmark's own, and what else ran.
    """

    per_second: float
    worker_ms: float
    broker_ms: float
    store_ms: float
    fullness: float
    others: float


class Round(_Kept):
    """One system in one round.

    Attributes:
        sends: Confirmed sends in a second, one by one.
        bulk: Confirmed sends in a second, in the fastest way that the system has.
        empty: Jobs that do nothing.
        waiting: Jobs that wait 5 ms.
        heavy: Jobs that carry 10 kB.
        memory_mb: The worker's memory after the first drain, all of its processes (PSS).
        p50_ms: From the send to the start at an even pace, the median …
        p99_ms: … and what 99 in 100 jobs do not exceed.
    """

    sends: float
    bulk: float
    empty: Drain
    waiting: Drain
    heavy: Drain
    memory_mb: float
    p50_ms: float
    p99_ms: float


class Sizes(_Kept):
    """How large a run was."""

    rounds: int
    backlog: int
    waiting: int
    heavy: int
    sends: int
    paced: int
    costs: int
    cost_rounds: int
    mails: int


class Short(_Kept):
    """What ``make bench`` measures.

    Attributes:
        machine: Where.
        sizes: How large.
        systems: The rounds of each system.
        costs: The rounds of jobkit without or with one more thing.
        mails: E-mails in a second, by how many go over one connection.
    """

    machine: Machine
    sizes: Sizes
    systems: dict[str, list[Round]]
    costs: dict[str, list[Drain]]
    mails: dict[str, list[float]]


class Bulk(_Kept):
    """A large ``send_many``, or several.

    Attributes:
        count: Jobs.
        per_second: Confirmed, in a second; the median.
        peak_mb: The most memory that a sending process took.
    """

    count: int
    per_second: float
    peak_mb: float


class Delayed(_Kept):
    """A worker's memory (PSS) before and after jobs were sent that are due in an hour."""

    count: int
    before_mb: float
    after_mb: float


class Full(_Kept):
    """What ``make bench FULL=1`` measures.

    Attributes:
        machine: Where.
        backlogs: Drains by system and by the backlog's size.
        pairs: Drains of jobkit: a small backlog, and right after it the largest.
        pair_sizes: The two sizes.
        store_bytes: Redis's memory for each done job, after the largest backlog.
        bulk: The largest ``send_many``.
        delayed: By system.
    """

    machine: Machine
    backlogs: dict[str, dict[int, Drain]]
    pairs: list[tuple[Drain, Drain]]
    pair_sizes: tuple[int, int]
    store_bytes: float
    bulk: Bulk
    delayed: dict[str, Delayed]


class Results(_Kept):
    """Both, each of its own day."""

    short: Short | None = None
    full: Full | None = None

    @classmethod
    def read(cls, file: Path) -> "Results":
        """Return what a file holds; nothing if there is none."""
        return cls.model_validate_json(file.read_bytes()) if file.exists() else cls()

    def write(self, file: Path) -> None:
        """Replace a file."""
        file.write_text(self.model_dump_json(indent=1) + "\n")

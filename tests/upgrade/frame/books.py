"""What has to happen with the jobs that were sent, compared with what did happen."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pika
import pika.exceptions
from ledger import Entry, Ledger

#: Seconds between a job's effect and its record: milliseconds on an idle machine.
WINDOW = 0.3


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: the processes that it ended, and when, in seconds since the epoch."""

    pids: frozenset[int]
    at: float


@dataclass
class Books:
    """Filled while jobs are sent, and compared at the end.

    Attributes:
        once: Names that must end exactly once.
        dead: Ids of jobs that must be dead-lettered exactly once.
        kills: The SIGKILLs that may have fallen between an effect and its record.
    """

    once: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    kills: list[Kill] = field(default_factory=list)

    def missing(self, ledger: Ledger) -> set[str]:
        """Return the names that have not ended yet."""
        return self.once - set(ledger.counts("end"))

    def problems(self, ledger: Ledger, dead: Counter[str]) -> list[str]:
        """Return a line for each job that was lost, ended twice, or died against expectation.

        Args:
            ledger: What the workers did.
            dead: How many dead letters each job id has.
        """
        ends, entries = ledger.counts("end"), ledger.entries()
        repeated = {name for name, count in ends.items() if count > 1}
        excused = {name for name in repeated if self._is_excused([e for e in entries if e.name == name])}
        return [
            *(f"lost: {name}" for name in sorted(self.missing(ledger))),
            *(f"ended {ends[name]} times: {name}" for name in sorted(repeated - excused)),
            *(f"not expected to end: {name}" for name in sorted(set(ends) - self.once)),
            *(f"no dead letter: {job}" for job in sorted(self.dead - set(dead))),
            *(
                f"{count} dead letters, {int(job in self.dead)} expected: {job}"
                for job, count in dead.items()
                if count != int(job in self.dead)
            ),
        ]

    def _is_excused(self, mine: Sequence[Entry]) -> bool:
        """Return whether each repeated end follows a kill of the process that had just written the end before it."""
        ends = [entry for entry in mine if entry.event == "end"]
        return all(
            any(
                end.pid in kill.pids
                and end.at <= kill.at <= end.at + WINDOW
                and all(entry.at > kill.at for entry in mine if entry.event == "start" and entry.pid != end.pid)
                for kill in self.kills
            )
            for end in ends[:-1]
        )


def dead_letters(url: str, *services: str) -> Counter[str]:
    """Return how many dead letters each job id has. They stay in their queues."""
    found: Counter[str] = Counter()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for service in services:
            channel = connection.channel()
            try:
                channel.queue_declare(f"{service}.dlq", passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                continue
            while True:
                method, _, body = channel.basic_get(f"{service}.dlq")
                if method is None or body is None:
                    break
                found[str(json.loads(body)["message_id"])] += 1
    return found

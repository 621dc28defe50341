"""What has to happen with the jobs that were sent, compared with what did happen."""

import json
from collections import Counter
from dataclasses import dataclass, field

import pika
import pika.exceptions
from ledger import Ledger

#: Seconds between a job's effect and its record: milliseconds on an idle machine.
WINDOW = 0.3

#: Seconds between the start of a job that dies and the record of its death, with the dead letter's confirm in between.
DEATH_WINDOW = 3.0


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
        dead: Names of jobs that must be dead-lettered exactly once, by their ids.
        kills: The SIGKILLs that may have fallen between an effect, or a dead letter, and its record.
    """

    once: set[str] = field(default_factory=set)
    dead: dict[str, str] = field(default_factory=dict)
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
        ends = ledger.counts("end")
        repeated = {n for n, count in ends.items() if count > 1 and not self._is_excused(ledger, n, "end", WINDOW)}
        died_again = {
            job
            for job, count in dead.items()
            if count > 1 and not self._is_excused(ledger, self.dead.get(job, ""), "start", DEATH_WINDOW)
        }
        return [
            *(f"lost: {name}" for name in sorted(self.missing(ledger))),
            *(f"ended {ends[name]} times: {name}" for name in sorted(repeated)),
            *(f"not expected to end: {name}" for name in sorted(set(ends) - self.once)),
            *(f"no dead letter: {self.dead[job]}" for job in sorted(set(self.dead) - set(dead))),
            *(f"not expected to die: {job}" for job in sorted(set(dead) - set(self.dead))),
            *(f"{dead[job]} dead letters: {self.dead.get(job, job)}" for job in sorted(died_again)),
        ]

    def _is_excused(self, ledger: Ledger, name: str, event: str, window: float) -> bool:
        """Return whether each repeated event follows a kill of the process that had just written the one before."""
        mine = [entry for entry in ledger.entries() if entry.name == name]
        happened = [entry for entry in mine if entry.event == event]
        return len(happened) > 1 and all(
            any(
                entry.pid in kill.pids
                and entry.at <= kill.at <= entry.at + window
                and all(other.at > kill.at for other in mine if other.event == "start" and other.pid != entry.pid)
                for kill in self.kills
            )
            for entry in happened[:-1]
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

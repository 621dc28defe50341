"""What became of the jobs: the ledger's lines added up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pika
import pika.exceptions
from ledger import Entry, Ledger
from worker_groups import Kill

#: Seconds between a job's effect and its record, at the very most: milliseconds, on a busy machine.
WINDOW = 1.0
DEAD_LETTERS = ("chaos.dlq", "chaos.XQ")


@dataclass(frozen=True)
class Account:
    """The figures of one run; all but ``raised`` and ``recovery`` are numbers of jobs.

    Attributes:
        accepted: Sends that were confirmed.
        raised: Sends that raised, and were repeated.
        lost: Accepted, never ended, and no dead letter.
        twice: Ended more than once, with no kill to excuse it.
        excused: Ended more than once because a SIGKILL fell between the effect and its record.
        again: Started more often than asked.
        dead: Dead-lettered.
        recovery: Seconds from the fault's end to the next job that ended; None if no job was left.
        finished: Whether all was quiet within the limit.
    """

    accepted: int
    raised: int
    lost: int
    twice: int
    excused: int
    again: int
    dead: int
    recovery: float | None
    finished: bool

    @property
    def holds(self) -> bool:
        """Nothing lost, nothing done twice, nothing given up, as all jobs can be done, and an end."""
        return self.finished and self.accepted > 0 and self.lost == self.twice == self.dead == 0


def settle(
    ledger: Ledger, sent: Ledger, kills: Sequence[Kill], fault_end: float, url: str, *, finished: bool
) -> Account:
    """Add up; ``url`` is where dead letters are."""
    accepted, ends, starts = sent.counts("accepted"), ledger.counts("end"), ledger.counts("start")
    failed = ledger.counts("fail")
    entries, dead = ledger.entries(), dead_letters(url)
    repeated = {name for name, count in ends.items() if count > 1}
    excused = {name for name in repeated if _is_excused([e for e in entries if e.name == name], kills)}
    later = [entry.at for entry in entries if entry.event == "end" and entry.at > fault_end]
    return Account(
        accepted=len(accepted),
        raised=sent.counts("raised").total(),
        lost=len(set(accepted) - set(ends) - dead),
        twice=len(repeated - excused),
        excused=len(excused),
        again=sum(count > 1 + failed[name] for name, count in starts.items()),
        dead=len(dead),
        recovery=min(later) - fault_end if later else None,
        finished=finished,
    )


def _is_excused(mine: Sequence[Entry], kills: Sequence[Kill]) -> bool:
    """Whether each repetition of one job came after a kill of the process that had just ended it."""
    ends = [entry for entry in mine if entry.event == "end"]
    return all(
        any(
            end.pid in kill.pids
            and end.at <= kill.at <= end.at + WINDOW
            and all(entry.at > kill.at for entry in mine if entry.event == "start" and entry.pid != end.pid)
            for kill in kills
        )
        for end in ends[:-1]
    )


def dead_letters(url: str) -> set[str]:
    """The ids of all dead letters; they stay where they are."""
    found: set[str] = set()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for queue in DEAD_LETTERS:
            channel = connection.channel()
            try:
                channel.queue_declare(queue, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                continue
            while True:
                method, _, body = channel.basic_get(queue)
                if method is None or body is None:
                    break
                found.add(str(json.loads(body)["message_id"]))
    return found

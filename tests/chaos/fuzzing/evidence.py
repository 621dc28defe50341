"""What became of the messages, as the workers' logs and the dead-letter queues tell it."""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pika
from hostile import ANSWERED, DONE, Hostile

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.topology import dead_letter_queue
from jobkit.deadletters import Failure

#: What a worker may say beside how a job or a message ended; anything else under hostile messages is a defect.
HARMLESS = ("a default password",)


class Logs:
    """The workers' logs, read on as they grow.

    Attributes:
        ends: How often each job id was done and answered.
        unexpected: Warnings and worse that no hostile message should cause.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._read = dict.fromkeys(files, 0)
        self.ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unexpected: list[str] = []
        self.lines = 0
        self.longest = 0

    def read_on(self) -> None:
        """Take in what has been written since."""
        for path, offset in self._read.items():
            with path.open("rb") as file:
                file.seek(offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[path] += len(whole) + len(newline)
            for line in whole.splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        self.lines += 1
        self.longest = max(self.longest, len(line))
        try:
            entry: dict[str, Any] = json.loads(line)  # Any: a line of a log
        except ValueError:
            if b"CRITICAL" in line or b"ERROR" in line or b"Traceback" in line:
                self.unexpected.append(line.decode(errors="replace")[:300])
            return
        event = str(entry.get("event", ""))
        if event == "job completed":
            self.ends[str(entry["job_id"])][DONE] += 1
        elif event == "job not run: answered":
            self.ends[str(entry["job_id"])][ANSWERED] += 1
        elif entry.get("level") in {"warning", "error", "critical"} and not _is_expected(event):
            self.unexpected.append(f"{event[:300]} {str(entry.get('exception', ''))[-600:]}")


def _is_expected(event: str) -> bool:
    ends = ("dead-lettered a message", "job died (", "a message's headers cannot be read")
    waits = ("so it is ignored. Update this worker", "wait for a newer worker")
    return event.startswith(ends) or event.endswith(waits) or any(text in event for text in HARMLESS)


class DeadLetters:
    """Takes every dead letter off its queue as it comes.

    Attributes:
        reasons: How often each id died of what.
    """

    def __init__(self, url: str, services: Iterable[str]) -> None:
        self._settings = ConnectionSettings((url,), name="fuzz")
        self._queues = [dead_letter_queue(service) for service in services]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dead-letters")
        self.reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.count = 0
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            with self._settings.open() as connection:
                channel = connection.channel()
                channel.basic_qos(prefetch_count=50)
                for queue in self._queues:
                    channel.basic_consume(queue, self._take)
                while not self._ended.is_set():
                    connection.process_data_events(0.2)
        except BaseException as error:
            self.error = error

    def _take(self, channel: Any, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        # Any: pika's callback.
        failure = Failure.from_headers(properties.headers)
        self.reasons[str(properties.message_id)][str(failure.reason)] += 1
        self.count += 1
        channel.basic_ack(method.delivery_tag)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(10)


def unsettled(messages: Iterable[Hostile], logs: Logs, letters: DeadLetters) -> list[str]:
    """For each id that has not come to its end, or to another: its kind, what should be and what is."""
    groups: defaultdict[str, list[Hostile]] = defaultdict(list)
    for message in messages:
        groups[message.token].append(message)
    problems = []
    for token, group in groups.items():
        found = Counter({**logs.ends.get(token, Counter()), **letters.reasons.get(token, Counter())})
        wanted = Counter(message.fates[0] for message in group)
        may_be = [wanted, *(Counter([fate]) for fate in group[0].fates[1:] if len(group) == 1)]
        if found not in may_be:
            kinds = " + ".join(dict.fromkeys(message.kind for message in group))
            problems.append(f"{group[0].queue}: {kinds}: should be {dict(wanted)}, is {dict(found)} ({token!r})")
    return problems

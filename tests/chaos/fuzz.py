"""Thousands of hostile messages into every queue of the four services, good jobs between them.

    make fuzz                                         10,000 into each of nine queues, in five rounds; some 20 minutes
    FUZZ_MESSAGES=1000 FUZZ_QUEUES=email,etl make fuzz
    FUZZ_SEED=7 make fuzz                             the same messages again

The kinds of malice are in ``fuzzing``, each with what must become of it. The exit status is 1 unless every message came
to that end, every good job was done once, no worker process ended, none logged anything else than such ends, and from
the end of the first round on each kept its size and its files.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "fuzzing"), str(HERE.parent / "harness")]

from campaign import Campaign
from crews import SERVICES, Crew, crews, environment, furnish, targets, train
from evidence import DeadLetters, Logs, unsettled
from hostile import Hostile, Target
from publishing import publish
from queues import wait_for_queue, wait_until_empty
from rich.console import Console
from rich.table import Table
from vitals import Vitals

from local_stack.mailcatcher import MailCatcher
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "10000"))
SEED = os.environ.get("FUZZ_SEED", "7")
ROUNDS = 5
#: Seconds without any progress after which what is left is called unaccounted for: a lease, a deferral and some.
PATIENCE = 60.0
#: Messages of each of the largest kinds that are sent to each queue first: each thread has an arena of the allocator,
#: which stays as large as the largest message has made it.
WARM_UP = 6
#: MiB that a process may gain after the first two rounds. Each thread keeps its last message, of up to 30 MiB when
#: decoded, until the next one, so sizes go up and down by that much. A leak of 3 KiB a message would be above it in a
#: process with three queues.
GROWTH = 48.0
#: Open files more or less: a connection to the store for each thread that comes to need one.
FILES = 8
KEPT = HERE.parents[1] / "var/fuzz"  #: The logs of a run that failed.


class Fuzz:
    """The run."""

    def __init__(self, console: Console, url: str, workers: Sequence[Crew], chosen: Sequence[Target]) -> None:
        self._console = console
        self._url = url
        self._workers = workers
        self._campaigns = [Campaign(target, SEED) for target in chosen]
        self._logs = Logs([crew.log for crew in workers])
        self._pids = {crew.name: crew.pids for crew in workers}
        self._fastest = 0.0
        self._looks: list[dict[str, Vitals]] = []
        self.problems: list[str] = []

    def run(self, letters: DeadLetters) -> None:
        """The warm-up and all rounds; stops at the first that does not come to its end."""
        self._round("warm-up", [m for campaign in self._campaigns for m in campaign.largest(WARM_UP)], letters)
        for number in range(1, ROUNDS + 1):
            if self.problems:
                return
            messages = [m for campaign in self._campaigns for m in campaign.round(MESSAGES // ROUNDS)]
            self._round(f"round {number}", messages, letters)
        self._check_size()

    def _round(self, name: str, messages: Sequence[Hostile], letters: DeadLetters) -> None:
        began, dead = time.monotonic(), letters.count
        for late in (False, True):
            publish(self._url, [message for message in messages if message.late is late])
            self._settle([message for message in messages if late or not message.late], letters)
            if self.problems:
                break
        self._looks.append({crew.name: crew.look() for crew in self._workers})
        self._report(name, messages, letters.count - dead, time.monotonic() - began)
        self._logs.ends.clear()
        letters.reasons.clear()

    def _settle(self, messages: Sequence[Hostile], letters: DeadLetters) -> None:
        seen, since = (self._logs.lines, letters.count), time.monotonic()
        while True:
            self._logs.read_on()
            now = (self._logs.lines, letters.count)
            if now != seen:
                self._fastest = max(self._fastest, (letters.count - seen[1]) / (time.monotonic() - since))
                seen, since = now, time.monotonic()
            left = unsettled(messages, self._logs, letters)
            if not left or letters.error:
                break
            if time.monotonic() - since > PATIENCE:
                self.problems += left
                break
            time.sleep(1)
        if letters.error is not None:
            self.problems.append(f"dead letters could not be read: {letters.error!r}")

    def _report(self, name: str, messages: Sequence[Hostile], dead: int, seconds: float) -> None:
        fates = Counter(message.fates[0] for message in messages)
        figures = ", ".join(f"{count:,} {fate}" for fate, count in fates.most_common())
        self._console.print(f"{name}: {len(messages):,} sent in {seconds:.0f} s: {figures}", highlight=False)
        sizes = ", ".join(f"{name} {look.resident:.0f} MiB" for name, look in self._looks[-1].items())
        rate = f"{self._fastest:,.0f} a second when most came"
        self._console.print(f"  {dead:,} dead letters, {rate}; {sizes}", highlight=False)
        self._fastest = 0.0

    def check_health(self) -> None:
        """No process has ended, and none has said anything that it should not."""
        self._logs.read_on()
        self.problems[:0] = [f"unexpected in a log: {line}" for line in self._logs.unexpected[:20]]
        for crew in self._workers:
            if crew.pids != self._pids[crew.name]:
                self.problems.append(f"{crew.name}: its processes were {self._pids[crew.name]} and are {crew.pids}")

    def _check_size(self) -> None:
        for name, last in self._looks[-1].items():
            warm, files = max(look[name].resident for look in self._looks[1:3]), self._looks[1][name].files
            if last.resident > warm + GROWTH:
                self.problems.append(f"{name} has grown from {warm:.0f} to {last.resident:.0f} MiB")
            if abs(last.files - files) > FILES:
                self.problems.append(f"{name} had {files} open files and has {last.files}")

    def show(self) -> None:
        """The table of sizes."""
        table = Table(title="worker processes after each round")
        table.add_column("worker")
        for number in range(len(self._looks)):
            table.add_column(f"MiB, {number}", justify="right")
        for title in ("peak", "files", "threads"):
            table.add_column(title, justify="right")
        for name, last in self._looks[-1].items():
            sizes = [f"{looks[name].resident:.0f}" for looks in self._looks]
            table.add_row(name, *sizes, f"{last.peak:.0f}", str(last.files), str(last.threads))
        self._console.print(table)


def main() -> int:
    """Run it, and return the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    names = [name for name in os.environ.get("FUZZ_QUEUES", "").split(",") if name]
    chosen = [target for target in targets() if not names or target.queue in names]
    if len(chosen) < len(names):
        raise SystemExit(f"FUZZ_QUEUES: there are {', '.join(target.queue for target in targets())}")
    console.print(f"FUZZ_SEED={SEED} FUZZ_MESSAGES={MESSAGES}", highlight=False)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        furnish(folder)
        with (
            RabbitMQ(folder / "rabbitmq") as rabbitmq,
            Redis(folder / "redis") as redis,
            MailCatcher(folder / "mail") as mail,
            crews(folder, environment(folder, rabbitmq.url, redis.url, mail.url)) as workers,
        ):
            for target in targets():
                wait_for_queue(rabbitmq.url, target.queue)
            train(rabbitmq.url, redis.url)
            fuzz = Fuzz(console, rabbitmq.url, workers, chosen)
            with DeadLetters(rabbitmq.url, SERVICES) as letters:
                fuzz.run(letters)
            if not fuzz.problems:
                wait_until_empty(rabbitmq.url, *(target.queue for target in targets()))
            fuzz.check_health()
            fuzz.show()
            if fuzz.problems:
                KEPT.mkdir(parents=True, exist_ok=True)
                for crew in workers:
                    shutil.copy(crew.log, KEPT)
    for problem in fuzz.problems[:100]:
        console.print(problem, style="red", highlight=False, markup=False)
    console.print(
        "every message came to its end" if not fuzz.problems else f"{len(fuzz.problems)} problems; see {KEPT}"
    )
    return 1 if fuzz.problems else 0


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(143)  # so that SIGTERM, too, ends what was started


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())

"""This project beside bare Dramatiq and Celery: the same no-op jobs, the same broker, the same run.

    make bench                 three rounds, medians
    BENCH_ROUNDS=1 make bench  a quick look

Absolute figures move from machine to machine and from hour to hour. Only the ratios within one run mean something, so
each round runs all systems in turn. What is compared:

- **jobkit** with all that it does by default: quorum queues, confirms, lease and record in Redis, traces, retries;
- **dramatiq** as it comes, with ``confirm_delivery``: classic queues, default middleware, no record of what was done;
- **celery** with late acks, confirms, rejection of jobs whose worker is lost, prefetch 64, results off.

Each has two worker processes; jobkit and Dramatiq with eight threads each, Celery with its default pool. A job writes
down when it was sent and when it started, 16 bytes appended to a file; the drain rate is taken from those lines alone.
Bulk means the fastest confirmed way that each offers: ``send_many`` here, a loop of confirmed sends for the peers.

A table of its own has the email service: 1,000 e-mails from a template to a mail server on this machine, over
connections that are used again, and over one for each e-mail. There is no peer to compare it with.
"""

import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jobkit.contracts.email import SendEmail
from jobkit.producer import Producer
from local_stack.mailcatcher import MailCatcher
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

BACKLOG = int(os.environ.get("BENCH_BACKLOG", "20000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SENDS = 1000
MAILS = 1000
PACED_PER_SECOND, PACED_SECONDS = 100, 8
LINE = struct.Struct("dd")
HERE = Path(__file__).parent
LIMIT = 300.0


@dataclass(frozen=True)
class System:
    """One of the peers: the module that sends, and the command that works."""

    name: str
    module: str
    command: tuple[str, ...]


SYSTEMS = (
    System("jobkit", "load_jobkit", ("-m", "dramatiq", "load_jobkit:broker", "-p", "2", "-t", "8")),
    System("dramatiq", "load_dramatiq", ("-m", "dramatiq", "load_dramatiq", "-p", "2", "-t", "8")),
    System("celery", "load_celery", ("-m", "celery", "-A", "load_celery", "worker", "-c", "2", "-l", "WARNING")),
)


@dataclass
class Figures:
    """What one system did, round by round."""

    sends: list[float] = field(default_factory=list)
    bulk: list[float] = field(default_factory=list)
    drain: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


class Run:
    """One system in one round, on a virtual host and a file of its own."""

    def __init__(self, system: System, folder: Path, environment: Mapping[str, str]) -> None:
        self._system = system
        self._file = folder / "lines"
        self._log = folder / "worker.log"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JOBKIT_", "CELERY_"))},
            "PYTHONPATH": str(HERE),
            "LOAD_FILE": str(self._file),
            "LOAD_STOP_GRACE_SECONDS": "60",
            **environment,
        }

    def measure(self, figures: Figures) -> None:
        """Send one by one, send in bulk, drain the backlog, and then jobs at an even pace."""
        figures.sends.append(self._send("one_by_one", SENDS))
        figures.bulk.append(self._send("bulk", BACKLOG - SENDS))
        with self._worker():
            lines = self._wait_for(BACKLOG)
            started = sorted(start for _, start in lines)
            figures.drain.append((len(started) - 1) / (started[-1] - started[0]))
            self._send("paced", PACED_PER_SECOND * PACED_SECONDS)
            paced = self._wait_for(BACKLOG + PACED_PER_SECOND * PACED_SECONDS)[BACKLOG:]
            waits = sorted(start - sent for sent, start in paced)
            figures.p50.append(1000 * waits[len(waits) // 2])
            figures.p99.append(1000 * waits[int(len(waits) * 0.99)])

    def _send(self, how: str, count: int) -> float:
        command = [sys.executable, "-W", "ignore", str(HERE / "timed_sender.py"), self._system.module, how, str(count)]
        done = subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True, timeout=LIMIT)
        return float(done.stdout.split()[-1])

    def _worker(self) -> "Worker":
        return Worker([sys.executable, *self._system.command], self._environment, self._log)

    def _wait_for(self, count: int) -> list[tuple[float, float]]:
        deadline = time.monotonic() + LIMIT
        while not self._file.exists() or self._file.stat().st_size < count * LINE.size:
            if time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{self._system.name} did not finish {count} jobs within {LIMIT:.0f} s:\n{tail}")
            time.sleep(0.05)
        return list(LINE.iter_unpack(self._file.read_bytes()))


class Worker:
    """A worker in a process group of its own, which ends with the block."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log

    def __enter__(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, 9)
                self._process.wait(10)


def mails_per_second(folder: Path, environment: Mapping[str, str], per_connection: int) -> float:
    """Let the email service work off a backlog of e-mails; from the first that has arrived to the last."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBKIT_", "EMAIL_"))}
    with MailCatcher(folder / "mailcatcher") as catcher:
        told = {**kept, **environment, "EMAIL_SMTP_URL": catcher.url, "EMAIL_MAILS_PER_CONNECTION": str(per_connection)}
        people = (f"person{number}@example.org" for number in range(MAILS))
        variables = {"name": "Ada", "url": "https://example.org"}
        with Producer(environment["JOBKIT_BROKER_URL"]) as producer:
            producer.send_many(SendEmail(template="welcome", to=(who,), variables=variables) for who in people)
        command = [sys.executable, "-m", "dramatiq", "email_service.main:broker", "-p", "2", "-t", "8"]
        with Worker([*command, "--worker-shutdown-timeout", "835000"], told, folder / "worker.log"):
            deadline = time.monotonic() + LIMIT
            while len(names := sorted(file.name for file in catcher.folder.glob("*.eml"))) < MAILS:
                if time.monotonic() > deadline:
                    raise SystemExit(f"the email service sent {len(names)} of {MAILS} within {LIMIT:.0f} s")
                time.sleep(0.05)
        first, last = (int(name.partition("-")[0]) for name in (names[0], names[-1]))  # nanoseconds
        return (MAILS - 1) / (last - first) * 1e9


def main() -> None:
    """Run all rounds and print the tables."""
    console = Console(width=110)
    results = {system.name: Figures() for system in SYSTEMS}
    mails: dict[int, list[float]] = {50: [], 1: []}
    with (
        tempfile.TemporaryDirectory() as text,
        RabbitMQ(Path(text) / "rabbitmq", management=True) as rabbitmq,
        Redis(Path(text) / "redis") as redis,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("measuring", total=ROUNDS * (len(SYSTEMS) + len(mails)))
        for number in range(ROUNDS):
            for system in SYSTEMS:
                progress.update(task, description=f"round {number + 1} of {ROUNDS}: {system.name}")
                vhost = f"{system.name}-{number}"
                folder = Path(text) / vhost
                folder.mkdir()
                environment = {"JOBKIT_BROKER_URL": rabbitmq.create_vhost(vhost), "JOBKIT_STORE_URL": redis.url}
                Run(system, folder, environment).measure(results[system.name])
                rabbitmq.delete_vhost(vhost)
                redis.flush()
                progress.advance(task)
            for per_connection, found in mails.items():
                progress.update(task, description=f"round {number + 1} of {ROUNDS}: email")
                vhost = f"email-{per_connection}-{number}"
                folder = Path(text) / vhost
                folder.mkdir()
                environment = {"JOBKIT_BROKER_URL": rabbitmq.create_vhost(vhost), "JOBKIT_STORE_URL": redis.url}
                found.append(mails_per_second(folder, environment, per_connection))
                rabbitmq.delete_vhost(vhost)
                redis.flush()
                progress.advance(task)
    report(console, results)
    table = Table("e-mails over one connection", f"{MAILS:,} e-mails, e-mails/s", title=f"medians of {ROUNDS} rounds")
    for per_connection, found in mails.items():
        table.add_row(str(per_connection), f"{statistics.median(found):,.0f}")
    console.print(table)


def report(console: Console, results: Mapping[str, Figures]) -> None:
    """Print medians, and ours as a ratio of theirs."""
    rows: list[tuple[str, Callable[[Figures], list[float]], str]] = [
        ("confirmed sends/s, one by one", lambda f: f.sends, "{:,.0f}"),
        ("confirmed sends/s, in bulk", lambda f: f.bulk, "{:,.0f}"),
        (f"drain of {BACKLOG:,} no-op jobs, jobs/s", lambda f: f.drain, "{:,.0f}"),
        (f"send to start at {PACED_PER_SECOND}/s, p50 ms", lambda f: f.p50, "{:.2f}"),
        (f"send to start at {PACED_PER_SECOND}/s, p99 ms", lambda f: f.p99, "{:.2f}"),
    ]
    peers = [system.name for system in SYSTEMS[1:]]
    table = Table("", *results, *(f"jobkit / {peer}" for peer in peers), title=f"medians of {ROUNDS} rounds")
    for title, values, form in rows:
        medians = {name: statistics.median(values(figures)) for name, figures in results.items()}
        ratios = [f"{medians['jobkit'] / medians[peer]:.2f} x" for peer in peers]
        table.add_row(title, *(form.format(medians[name]) for name in results), *ratios)
    console.print(table)


if __name__ == "__main__":
    main()

"""Half an hour of mixed load under random faults: nothing grows, and the ledger balances.

    make soak                                   30 minutes
    SOAK_MINUTES=3 SOAK_SEED=11 make soak       a quick look, and another order of faults
    SOAK_FAULTS=kill,redis-kill make soak       only these

Two workers under a supervisor and the scheduler do what ``soaking/load.py`` sends: jobs that are plain, that fail
first, snooze, are delayed, send children, come twice, or give up; and a tick each minute. A fault of ``make chaos``
strikes every 20 to 60 seconds. The exit status is 1 if a job was lost or done twice (except where a SIGKILL fell
between its effect and its record), if a dead letter is missing or one too many, or if something grew beyond its bound;
the bounds stand with their reasons in ``soaking/gauges.py``.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
ROOMS = [HERE / "soaking", HERE / "suite", HERE / "fuzzing", HERE.parent / "harness"]
sys.path[:0] = [str(room) for room in ROOMS]

from account import Account, dead_letters, settle
from faults import FAULTS, Fault
from gauges import Gauges
from ledger import Ledger
from load import Load
from proxy import Proxy
from queues import wait_until_empty
from rich.console import Console
from rich.table import Table
from strikes import Scene
from vitals import descendants
from worker_groups import Workers

from local_stack.process import Process
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
SEED = os.environ.get("SOAK_SEED", "7")
#: Those that make no sense beside a load of their own are left out.
NAMES = os.environ.get("SOAK_FAULTS", "kill,roll,close,restart,crash,alarm,freeze,redis-stop,redis-kill").split(",")
#: Seconds from the end of one fault to the next, at least and at most.
PAUSE = (20.0, 60.0) if MINUTES >= 2 else (2.0, 4.0)
WORKERS, THREADS = 2, 8
VHOST = "soak"
#: Seconds, as in the suite.
LEASE = 5
#: Seconds that a record lives: longer than any job is delayed and any fault lasts, short enough for Redis to come to
#: its level within the first tenth of half an hour.
RECORDS = 180
#: Seconds for what is left when the load has ended: delays, leases, retries.
DRAIN = 180.0
KEPT = HERE.parents[1] / "var/soak"  #: What was written in runs that failed.


class Soak:
    """One run."""

    def __init__(self, console: Console, rabbitmq: RabbitMQ, redis: Redis, folder: Path) -> None:
        self._console, self._rabbitmq, self._redis, self._folder = console, rabbitmq, redis, folder
        self._ledger, self._sent = Ledger(folder / "ledger"), Ledger(folder / "sent")
        self._draw = Random(SEED)
        self._faults = [fault for fault in FAULTS if fault.name in NAMES]
        self.problems: list[str] = []

    def run(self) -> None:
        """Start all, strike until the time is over, let the rest end, and add up."""
        (self._folder / "marks").mkdir()
        direct = self._rabbitmq.create_vhost(VHOST)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "dramatiq",
            "soak_service:broker",
            "-p",
            "1",
            "-t",
            str(THREADS),
        ]
        with Proxy(self._rabbitmq.ports["AMQP"]) as proxy:
            url = direct.replace(f":{self._rabbitmq.ports['AMQP']}/", f":{proxy.port}/")
            variables = self._environment(url)
            gauges = Gauges(self._rabbitmq, self._redis, VHOST, _worker_processes)
            with Workers([command] * WORKERS, variables, self._folder) as workers, self._scheduler(variables), gauges:
                scene = Scene(self._rabbitmq, self._redis, workers, VHOST, self._folder / "trouble", proxy)
                with Load(url, self._folder, SEED) as load:
                    self._strike_until(time.monotonic() + MINUTES * 60, scene)
                self._balance(workers, load, direct)
        self._show(gauges)

    def _strike_until(self, end: float, scene: Scene) -> None:
        self._ledger.wait(lambda ledger: ledger.path.exists(), 60, "the first job")
        while True:
            pause = self._draw.uniform(*PAUSE)
            if time.monotonic() + pause > end:
                time.sleep(max(0.0, end - time.monotonic()))
                return
            time.sleep(pause)
            self._strike(self._draw.choice(self._faults), scene)

    def _strike(self, fault: Fault, scene: Scene) -> None:
        began = time.monotonic()
        fault.strike(scene)
        ended, before = time.monotonic(), self._ledger.path.stat().st_size
        deadline = ended + 60
        while self._ledger.path.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.05)
        recovery = time.monotonic() - ended
        line = f"{time.strftime('%H:%M:%S')} {fault.title}: {ended - began:.1f} s, next line after {recovery:.1f} s"
        self._console.print(line, highlight=False)
        if time.monotonic() >= deadline:
            self.problems.append(f"nothing happened for 60 s after: {fault.title}")

    def _balance(self, workers: Workers, load: Load, url: str) -> None:
        if load.error is not None:
            self.problems.append(f"the load ended early: {load.error!r}")
        try:
            wait_until_empty(url, "chaos", "chaos.high", limit=DRAIN)
            self._ledger.wait(lambda _: not self._missing(url), DRAIN, "the rest")
            finished = True
        except AssertionError as error:
            self.problems.append(f"not at rest within {DRAIN:.0f} s: {str(error)[:200]}")
            finished = False
        account = settle(self._ledger, self._sent, workers.kills, time.time(), url, finished=finished)
        self._judge(account, load.doomed, url)

    def _judge(self, account: Account, doomed: set[str], url: str) -> None:
        ticks = [name for name in self._ledger.counts("end") if name.startswith("tick-")]
        self._console.print(
            f"{account.accepted:,} accepted, {account.raised:,} sends raised, {account.lost} lost, {account.twice} "
            f"done twice, {account.excused} in the window, {account.dead:,} dead letters of {len(doomed):,} planned, "
            f"{len(ticks)} ticks",
            highlight=False,
        )
        if account.lost or account.twice or not account.finished:
            self.problems.append(f"the ledger does not balance: {account}")
        dead = dead_letters(url)
        if dead != doomed:
            self.problems.append(
                f"dead letters missing: {sorted(doomed - dead)[:5]}, too many: {sorted(dead - doomed)[:5]}"
            )
        if MINUTES >= 2 and not int(MINUTES) - 1 <= len(ticks) <= MINUTES + 2 + DRAIN / 60:
            self.problems.append(f"{len(ticks)} ticks in {MINUTES:g} minutes")

    def _missing(self, url: str) -> set[str]:
        return set(self._sent.counts("accepted")) - set(self._ledger.counts("end")) - dead_letters(url)

    def _show(self, gauges: Gauges) -> None:
        table = Table("gauge", title="medians of the first and the last third, and the highest reading")
        for title in ("first", "last", "highest"):
            table.add_column(title, justify="right")
        for row in gauges.summary():
            table.add_row(*row)
        self._console.print(table)
        self.problems += gauges.breaches()

    @contextmanager
    def _scheduler(self, variables: dict[str, str]) -> Iterator[None]:
        jobkit = str(Path(sys.executable).parent / "jobkit")
        log = self._folder / "scheduler.log"
        process = Process.spawn([jobkit, "scheduler"], log=log, environment=variables, folder=self._folder)
        try:
            yield
            if not process.alive:
                self.problems.append(f"the scheduler has ended: {log.read_text(errors='replace')[-500:]}")
        finally:
            process.kill()

    def _environment(self, url: str) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JOBKIT_", "SOAK_", "SUITE_"))},
            "PYTHONPATH": os.pathsep.join(map(str, ROOMS)),
            "PYTHONUNBUFFERED": "1",
            "SUITE_FOLDER": str(self._folder),
            "JOBKIT_BROKER_URL": url,
            "JOBKIT_STORE_URL": self._redis.url,
            "JOBKIT_LEASE_SECONDS": str(LEASE),
            "JOBKIT_STORE_TIMEOUT_SECONDS": str(LEASE / 10),
            "JOBKIT_RECORD_TTL_SECONDS": str(RECORDS),
            "JOBKIT_LOG_LEVEL": "WARNING",
        }


def _worker_processes() -> list[int]:
    """The processes that run jobs: the leaves below the supervisor's."""
    found = [(pid, command) for pid, command in descendants(os.getpid()) if "soak_service:broker" in command]
    return [pid for pid, _ in found if not any(descendants(pid))]


def main() -> int:
    """Run it, and return the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"SOAK_MINUTES={MINUTES:g} SOAK_SEED={SEED}", highlight=False)
    config = ["collect_statistics_interval = 1000"]
    with (
        tempfile.TemporaryDirectory() as text,
        RabbitMQ(Path(text) / "rabbitmq", management=True, config=config) as rabbitmq,
        Redis(Path(text) / "redis") as redis,
    ):
        folder = Path(text) / "soak"
        folder.mkdir()
        soak = Soak(console, rabbitmq, redis, folder)
        try:
            soak.run()
        except AssertionError as error:
            soak.problems.append(str(error))
        if soak.problems:
            shutil.copytree(folder, KEPT, dirs_exist_ok=True, ignore=shutil.ignore_patterns("marks"))
    for problem in soak.problems:
        console.print(problem, style="red", highlight=False, markup=False)
    console.print(
        f"{len(soak.problems)} problems; see {KEPT}" if soak.problems else "nothing grew, and the ledger balances"
    )
    return 1 if soak.problems else 0


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(143)  # so that SIGTERM, too, ends what was started


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())

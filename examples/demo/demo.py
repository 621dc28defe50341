"""Send real work through all four services, show it live, and check what came out.

Backing services are those of `make up` if they are up, else containers, else private nodes from the system's packages;
where none of these can be had, all services run in this one process. With BACKING=nodes or BACKING=docker, the demo
uses that kind or fails. Everything that is started here ends with it.
"""

import argparse
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import services
import workers
from backing import Backing, open_backing
from board import POLL_SECONDS, Board, Unexpected
from digits import Digits
from folder import emptied, shown
from mail import Mail
from mishap import Mishap
from pictures import Pictures
from pika.exceptions import AMQPError
from rich.console import Console
from runtime import Runtime
from screen import Screen
from stage import Finding, Stage
from tables import Tables

from jobkit.errors import JobkitError
from local_stack.errors import LocalStackError
from local_stack.mailcatcher import MailCatcher

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LOG_LINES = 15  #: Of each log, when something went wrong.
EXPECTED_DEPTHS = {"email.dlq": 1}  #: In the end: the one job that fails on purpose.
LOOK_SECONDS = 0.5  #: Between two looks at the queues, which cost the broker a channel each.
ANSWER_SECONDS = 10.0  #: Until the last copies are answered, on a slow machine.
MAX_SECONDS = 3600
REPORT = "Report"  #: The task that sends the last e-mail.


def main() -> int:
    """Run the demo; the exit status is 0 only if every expected result was found."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--embedded", action="store_true", help="run everything in this process, without RabbitMQ")
    parser.add_argument("--folder", type=Path, default=PROJECT / "var/demo", help="for all that comes out; is emptied")
    options = parser.parse_args()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show an arrow still shows the rest
    screen = Screen(Console(highlight=False))
    stop = Stop()
    try:
        limit = _limit(os.environ.get("DEMO_TIMEOUT", "120"))
        with emptied(options.folder.resolve()) as folder:
            return Demo(folder, screen, limit, stop).run(in_one_process=options.embedded)
    except KeyboardInterrupt:
        screen.verdict("Stopped, and everything that was started has been ended.", good=False)
        return 130
    except (Unexpected, LocalStackError, JobkitError, AMQPError) as error:
        screen.verdict(str(error) or repr(error), good=False)
        return 1


class Stop:
    """Ends the demo with ``KeyboardInterrupt`` at the first Ctrl-C or SIGTERM; takes over both signals."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def check(self) -> None:
        """Raise it if it was asked for. Python drops what a signal raises inside ``__del__``."""
        if self._asked:
            raise KeyboardInterrupt

    def _interrupt(self, _number: int, _frame: object) -> NoReturn:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the end takes seconds, and a second Ctrl-C must not cut it short
        self._asked = True
        raise KeyboardInterrupt


class Demo:
    """One run.

    Args:
        folder: For all that comes out.
        screen: Shows it.
        limit: Seconds for the jobs. Installing packages and starting the backing services have limits of their own.
        stop: Asked while the jobs run.
    """

    def __init__(self, folder: Path, screen: Screen, limit: float, stop: Stop) -> None:
        self._folder = folder
        self._screen = screen
        self._limit = limit
        self._stop = stop
        self._run = uuid.uuid4().hex[:8]
        self._catcher = MailCatcher(folder / "mailcatcher")
        self._mail, self._mishap = Mail(self._catcher), Mishap()
        self._others: tuple[Stage, ...] = (
            Pictures(services.images_folder(folder)),
            Tables(services.etl_folder(folder), services.etl_database(folder)),
            Digits(services.inference_folder(folder)),
        )
        self._stages: tuple[Stage, ...] = (self._mail, *self._others, self._mishap)

    def run(self, *, in_one_process: bool) -> int:
        """Do everything; returns the exit status."""
        began = time.monotonic()
        self._screen.say("Four services at work: e-mails, images, a table, predictions", "bold")
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(len(self._stages) + 1))
            backing = self._start(stack, pool, in_one_process=in_one_process)
            runtime = stack.enter_context(self._services(backing))
            self._screen.step(runtime.title)
            board = Board(runtime.producer, runtime.store, runtime, self._run)
            stack.callback(board.abort, "the demo was stopped")  # or the pool would wait for its threads forever
            problems = self._work(board, runtime, self._tasks(pool, board))
            runtime.stop()  # what a worker still held is back in its queue now, or settled
            good = self._report(runtime, problems, backing)
            if not good:
                self._show_logs(runtime)
        self._stop.check()
        took = f"{time.monotonic() - began:.1f} s"
        if backing is None:
            took += ", without RabbitMQ and Redis: broker and store were this process's memory"
        verdict = f"Everything came out as expected, in {took}." if good else f"Something is missing, after {took}."
        self._screen.verdict(verdict, good=good)
        return 0 if good else 1

    def _start(self, stack: ExitStack, pool: ThreadPoolExecutor, *, in_one_process: bool) -> Backing | None:
        """Start what the services need, and prepare their inputs meanwhile."""
        prepared = [pool.submit(stage.prepare) for stage in self._stages]
        began = time.monotonic()
        self._screen.step("starting a mail catcher" + ("" if in_one_process else ", RabbitMQ and Redis"))
        stack.enter_context(self._catcher)
        backing = None
        if not in_one_process:
            say = self._screen.step
            backing = stack.enter_context(open_backing(PROJECT, self._folder, self._run, say=say))
            if backing is None:
                say("so RabbitMQ and Redis are not to be had on this machine, and the demo runs embedded")
        for each in prepared:
            each.result()
        self._screen.step(f"up after {time.monotonic() - began:.1f} s")
        return backing

    def _services(self, backing: Backing | None) -> AbstractContextManager[Runtime]:
        variables = services.environment(self._folder, self._catcher.url, backing.variables if backing else {})
        logs = self._folder / "logs"
        if backing is None:
            import embedded  # here, because it imports all that the four services need, which takes seconds

            return embedded.running(logs, variables)
        return workers.running(PROJECT / "deploy/Procfile", logs, variables, backing)

    def _tasks(self, pool: ThreadPoolExecutor, board: Board) -> dict[str, Future[None]]:
        """All stages at once; the report follows when the others have something to report."""
        tasks = {stage.title: pool.submit(stage.run, board) for stage in self._stages}
        return {**tasks, REPORT: pool.submit(self._send_report, board, tasks)}

    def _send_report(self, board: Board, tasks: Mapping[str, Future[None]]) -> None:
        for stage in self._others:
            if tasks[stage.title].exception() is not None:
                raise Unexpected(f"the report was not sent, because {stage.title} has nothing to report")
        self._mail.report(board, [(stage.title, stage.headline()) for stage in self._others])

    def _work(self, board: Board, runtime: Runtime, tasks: Mapping[str, Future[None]]) -> dict[str, str]:
        """Show what happens until all tasks have ended, and return what went wrong with which."""
        deadline, next_look = time.monotonic() + self._limit, 0.0
        depths: Mapping[str, int] = {}
        with self._screen.live():
            while not all(task.done() for task in tasks.values()):
                time.sleep(POLL_SECONDS)
                self._stop.check()
                board.refresh()
                if time.monotonic() >= next_look:
                    depths, next_look = runtime.depths(), time.monotonic() + LOOK_SECONDS
                    board.abort(_trouble(runtime.programs, depths))
                if time.monotonic() > deadline:
                    board.abort(f"not done after the {self._limit:g} s that DEMO_TIMEOUT allows")
                self._screen.show(board, runtime.programs, depths)
            problems = {title: str(error) for title, task in tasks.items() if (error := task.exception()) is not None}
            # The second copies that were sent last are answered from the records: no line of the board shows them.
            answered_by = time.monotonic() + ANSWER_SECONDS
            while not problems and _unexpected(runtime.depths()) and time.monotonic() < answered_by:
                time.sleep(POLL_SECONDS)
                self._stop.check()
            board.refresh()
            self._screen.show(board, runtime.programs, runtime.depths())
        return problems

    def _report(self, runtime: Runtime, problems: Mapping[str, str], backing: Backing | None) -> bool:
        """Look up every expected result and show it; True if all are as expected."""
        good = not problems
        for stage in self._stages:
            findings = [Finding(problems[stage.title], holds=False)] if stage.title in problems else _found(stage)
            if stage is self._mail and REPORT in problems:
                findings.append(Finding(problems[REPORT], holds=False))
            good = good and bool(findings) and all(finding.holds for finding in findings)
            lines = [(finding.holds, finding.text) for finding in findings]
            self._screen.part(stage.title, lines, shown(stage.place) if stage.place else "")
        self._show_letters(backing)
        left = _unexpected(runtime.depths())
        text = ", ".join(f"{queue} {count}" for queue, count in left.items())
        empty = (not left, f"not as they should be: {text}" if left else "all are empty, but for the one dead letter")
        self._screen.part("Queues, after the workers have ended", [empty], "")
        return good and not left

    def _show_letters(self, backing: Backing | None) -> None:
        for letter in self._mishap.letters:
            self._screen.letter(letter)
        if backing is not None and backing.stays:
            command = f"JOBKIT_BROKER_URL={backing.broker_url} {shown(BIN / 'jobkit')} dead-letters email"
            self._screen.hint("it stays in its queue; list it with", command)
        elif backing is not None:
            self._screen.hint("gone with this private RabbitMQ; to keep it", "make up demo")

    def _show_logs(self, runtime: Runtime) -> None:
        for log in runtime.logs:
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            self._screen.tail(shown(log), lines)


def _unexpected(depths: Mapping[str, int]) -> dict[str, int]:
    """The queues that do not hold what they should in the end."""
    return {queue: count for queue, count in depths.items() if count != EXPECTED_DEPTHS.get(queue, 0)}


def _found(stage: Stage) -> list[Finding]:
    try:
        return list(stage.findings())
    except Exception as error:
        return [Finding(f"cannot be checked: {type(error).__name__}: {error}", holds=False)]


def _trouble(programs: Mapping[str, bool], depths: Mapping[str, int]) -> str:
    """What makes waiting useless, or nothing."""
    ended = [name for name, runs in programs.items() if not runs]
    if ended:
        return f"{', '.join(ended)} ended unexpectedly"
    dead = [
        queue for queue, count in depths.items() if queue.endswith(".dlq") and count > EXPECTED_DEPTHS.get(queue, 0)
    ]
    return f"there is an unexpected dead letter in {', '.join(dead)}" if dead else ""


def _limit(text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 1 <= limit <= MAX_SECONDS:
        raise Unexpected(f"DEMO_TIMEOUT is {text!r}: it must be the most seconds that the jobs may take, 1 to 3600")
    return limit


if __name__ == "__main__":
    sys.exit(main())

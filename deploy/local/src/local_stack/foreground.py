"""Several programs in the foreground of one terminal: started together, kept running, ended together."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from local_stack.errors import LocalStackError, ProgramFailed
from local_stack.procfile import Program

LINE_BYTES = 1_048_576  #: The longest line that is shown whole; a log line may hold a traceback.
LOOK_SECONDS = 0.1  #: Between two looks whether a program has ended.
DRAIN_SECONDS = 2.0  #: For the last lines; a grandchild in a session of its own may hold the pipe open for ever.
MISCONFIGURED = 78  #: The exit status of a program that only a person can help (sysexits.h: EX_CONFIG).

Say = Callable[[str], object]


@dataclass(frozen=True)
class Restarts:
    """How often a program that ends unexpectedly is started again. A worker ends when one of its processes is killed.

    Attributes:
        first_pause: Seconds before the first restart; each further pause is twice as long.
        longest_pause: In seconds.
        most: With this many exits within ``window``, it is not started again.
        window: In seconds. A program that has run for as long has the first pause again.
    """

    first_pause: float = 0.5
    longest_pause: float = 10.0
    most: int = 5
    window: float = 60.0


async def run(
    programs: Sequence[Program],
    environment: Mapping[str, str],
    *,
    say: Say,
    grace_seconds: float,
    restarts: Restarts | None = None,
) -> int:
    """Run programs until SIGINT or SIGTERM; one that ends unexpectedly is started again.

    A second signal ends the wait for those that take their time to end.

    Args:
        programs: what to run, each in a session of its own so that Ctrl-C reaches them through us alone.
        environment: all of their variables.
        say: receives each line of output with the program's name before it, and a line for what happens to a program.
        grace_seconds: from SIGTERM to SIGKILL.
        restarts: how often.

    Returns:
        The exit status: 0 after a signal, 1 if a program is misconfigured or ends again and again.

    Raises:
        LocalStackError: a program cannot be started.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def interrupt() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    width = max(len(program.name) for program in programs)
    kept = [_Kept(program, environment, say, width) for program in programs]
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait())]
    failure = ""
    try:
        for each in kept:
            await each.start()
        say(f"all {len(kept)} programs run; Ctrl-C ends them")
        tasks += [asyncio.create_task(each.keep(restarts or Restarts())) for each in kept]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except ProgramFailed as error:
        failure = str(error)
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _end([each for each in kept if each.running], say, grace_seconds, hurry)
    if failure:
        say(failure)  # last, or it would be lost among what the others say at their end
    return 1 if failure else 0


async def _end(running: Sequence["_Kept"], say: Say, grace_seconds: float, hurry: asyncio.Event) -> None:
    if not running:
        return
    names = ", ".join(each.program.name for each in running)
    say(f"ending {names}: waiting up to {grace_seconds:g} s for the jobs that they run; Ctrl-C does not wait")
    for each in running:
        each.terminate()
    ended = [asyncio.create_task(each.ended()) for each in running]
    hurried = asyncio.create_task(_kill(running, hurry))
    await asyncio.wait(ended, timeout=grace_seconds)
    hurry.set()
    await asyncio.gather(hurried, *ended)


async def _kill(running: Sequence["_Kept"], hurry: asyncio.Event) -> None:
    await hurry.wait()
    for each in running:
        each.kill()


class _Kept:
    """One program and the process that runs it now."""

    def __init__(self, program: Program, environment: Mapping[str, str], say: Say, width: int) -> None:
        self.program = program
        self._environment = environment
        self._say = say
        self._prefix = f"{program.name:{width}} | "
        self._process: Process | None = None
        self._shown: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    async def start(self) -> None:
        """Start a process, and show what it says."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                env=self._environment,
                start_new_session=True,
                limit=LINE_BYTES,
            )
        except FileNotFoundError:
            raise LocalStackError(
                f"{self.program.name}: there is no program {self.program.command[0]}; run: make setup"
            ) from None
        self._shown = asyncio.create_task(self._show(self._process))

    async def keep(self, restarts: Restarts) -> None:
        """Start it again each time it ends.

        Raises:
            ProgramFailed: that is of no use.
        """
        name = self.program.name
        exits: deque[float] = deque(maxlen=restarts.most)
        pause = restarts.first_pause
        while True:
            began = time.monotonic()
            status = await self.ended()
            exits.append(time.monotonic())
            if status == MISCONFIGURED:
                raise ProgramFailed(f"{name} is misconfigured and says above what is wrong, so all programs were ended")
            if len(exits) == restarts.most and exits[-1] - exits[0] <= restarts.window:
                times = f"{restarts.most} times within {exits[-1] - exits[0]:.1f} s"
                raise ProgramFailed(f"{name} ended {times}, {_how(status)} at last, so all programs were ended")
            if exits[-1] - began >= restarts.window:
                pause = restarts.first_pause
            self._say(f"{name} ended {_how(status)}; it is started again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, restarts.longest_pause)
            await self.start()

    async def ended(self) -> int:
        """Wait for the process and its last line, and return the exit status; what it leaves behind is killed."""
        assert self._process is not None  # noqa: S101  it was started
        assert self._shown is not None  # noqa: S101  the same
        while self._process.returncode is None:  # in some Pythons, wait() returns only when its children have ended too
            await asyncio.wait([self._shown], timeout=LOOK_SECONDS)
            if self._shown.done():
                await self._process.wait()
        status = self._process.returncode
        self.kill()
        await asyncio.wait([self._shown], timeout=DRAIN_SECONDS)
        self._process = None
        return status

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and its children, which share its session."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _show(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101  it was opened as a pipe
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than LINE_BYTES: dropped, and reading goes on
                continue
            if not line:
                return
            self._say(self._prefix + line.decode(errors="replace").rstrip("\n"))


def _how(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"

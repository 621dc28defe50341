"""Where an interrupt lands from Python 3.12 on, and where it must not."""

import asyncio
import importlib
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from dramatiq.middleware import Shutdown

from jobkit.interrupts import Interrupts
from jobkit.interrupts.origin import Origin, Origins, homes_of

#: Seconds instead of five. Longer than a busy machine takes to reach the next loop.
PATIENCE = 0.3

monitoring: Any = getattr(sys, "monitoring", None)  # Any: the type checker looks with Python 3.11's eyes

LIBRARY = """
import time


def loop():
    while True:
        time.sleep(0.001)


def loop_under(lock):
    while True:
        with lock:
            time.sleep(0.001)


def call(function):
    while True:
        function()
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that is installed as a third party's."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "third_party_for_test.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("third_party_for_test")
    del sys.modules["third_party_for_test"]


class Job:
    """A job in a thread of its own."""

    def __init__(self, interrupts: Interrupts, function: Callable[[], object]) -> None:
        self._interrupts, self._function = interrupts, function
        self.outcome: object = None
        self.ended_after = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._interrupts.run(self._function, limit=60)
        except BaseException as error:  # noqa: BLE001, RUF100  whatever comes out is what the test looks at
            self.outcome = error

    def interrupt(self) -> "Job":
        deadline = time.monotonic() + 5
        while not self._interrupts.interrupt(self._thread.ident or 0, Shutdown):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return self

    def end(self, limit: float = 10.0) -> "Job":
        begun = time.monotonic()
        self._thread.join(limit)
        assert not self._thread.is_alive(), "the interrupt did not land"
        self.ended_after = time.monotonic() - begun
        return self

    @property
    def places(self) -> list[str]:
        """The functions that the interrupt passed on its way out, innermost last."""
        assert isinstance(self.outcome, Shutdown), self.outcome
        trace, found = self.outcome.__traceback__, []
        while trace is not None:
            found.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        return found


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts(patience=PATIENCE)


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def spin_for_ever() -> NoReturn:
    while True:
        pass


def test_nothing_is_monitored_before_and_after_an_interrupt(interrupts: Interrupts) -> None:
    def tools() -> list[str | None]:
        return [monitoring.get_tool(number) for number in range(6)]

    before = tools()
    seen: list[list[str | None]] = []

    def job() -> None:
        seen.append(tools())
        spin_for_ever()

    job_that_runs = Job(interrupts, job)
    job_that_runs.interrupt().end()
    assert seen == [before]
    assert tools() == before


def test_an_interrupt_lands_within_milliseconds_in_a_loop_of_the_job(interrupts: Interrupts) -> None:
    assert "spin_for_ever" in Job(interrupts, spin_for_ever).interrupt().end().places


LOOPS = {
    "while": "while True:\n            time.sleep(0.001)",
    "while on one line": "while True: time.sleep(0.001)",
    "while, without a call": "while number:\n            number += 1",
    "for": "for _ in iter(int, 1):\n            time.sleep(0.001)",
    "for on one line": "for _ in iter(int, 1): time.sleep(0.001)",
    "comprehension": "_ = [time.sleep(0.001) for _ in iter(int, 1)]",
    "match in a loop": "while True:\n            match number:\n                case 1: time.sleep(0.001)",
    "continue": "while True:\n            time.sleep(0.001)\n            if number: continue",
}

GUARDS = {
    "finally": "try:\n        begun.set()\n        {loop}\n    finally:\n        left.append('left')",
    "with": "with guard(left):\n        begun.set()\n        {loop}",
    "except": "try:\n        begun.set()\n        {loop}\n    except Shutdown:\n        left.append('left'); raise",
}


@contextmanager
def guard(left: list[str]) -> Iterator[None]:
    try:
        yield
    finally:
        left.append("left")


@pytest.mark.parametrize("around", GUARDS)
@pytest.mark.parametrize("loop", LOOPS)
def test_what_guards_a_loop_in_its_own_function_is_left(interrupts: Interrupts, loop: str, around: str) -> None:
    begun = threading.Event()
    names: dict[str, Any] = {"time": time, "guard": guard, "begun": begun, "Shutdown": Shutdown, "__file__": __file__}
    text = GUARDS[around].format(loop=LOOPS[loop])
    exec(f"def job(left):\n    number = 1\n    {text}\n", names)
    left: list[str] = []
    job = Job(interrupts, lambda: names["job"](left))
    assert begun.wait(5)
    assert isinstance(job.interrupt().end().outcome, Shutdown)
    assert left == ["left"]


def test_threads_are_interrupted_together_and_the_others_go_on(interrupts: Interrupts) -> None:
    done = threading.Event()

    def bystander() -> str:
        while not done.is_set():
            pass
        return "undisturbed"

    first, second, third = (Job(interrupts, f) for f in (spin_for_ever, bystander, spin_for_ever))
    first.interrupt()
    third.interrupt()
    assert isinstance(first.end().outcome, Shutdown)
    assert isinstance(third.end().outcome, Shutdown)
    done.set()
    assert second.end().outcome == "undisturbed"


def test_a_loop_in_a_library_is_interrupted_after_a_while(interrupts: Interrupts, library: ModuleType) -> None:
    job = Job(interrupts, library.loop).interrupt().end()
    assert "loop" in job.places
    assert job.ended_after >= PATIENCE * 0.9


def test_a_library_frees_its_lock_when_it_is_interrupted(interrupts: Interrupts, library: ModuleType) -> None:
    lock = threading.Lock()
    Job(interrupts, lambda: library.loop_under(lock)).interrupt().end()
    assert lock.acquire(blocking=False)


def test_a_function_of_the_job_that_a_library_calls_is_interrupted_at_once(
    interrupts: Interrupts, library: ModuleType
) -> None:
    def function() -> None:
        time.sleep(0.001)

    job = Job(interrupts, lambda: library.call(function)).interrupt().end()
    assert "function" in job.places
    assert job.ended_after < PATIENCE


def test_the_standard_library_is_never_interrupted(interrupts: Interrupts) -> None:
    gate = threading.Event()

    def job() -> None:
        while True:
            gate.wait(PATIENCE * 3)

    places = Job(interrupts, job).interrupt().end().places
    assert places[places.index("job") + 1].startswith("_at"), places
    assert vars(gate)["_cond"].acquire(blocking=False)


def test_steps_without_a_call_or_a_loop_are_interrupted_between_lines_after_a_while(interrupts: Interrupts) -> None:
    lines: list[int] = []
    sleep, note = time.sleep, lines.append

    def job() -> None:
        sleep(PATIENCE * 2)
        note(1)
        sleep(PATIENCE * 2)
        note(2)

    Job(interrupts, job).interrupt().end()
    assert lines == []


def test_a_lock_that_a_job_waited_for_beyond_its_limit_is_freed(interrupts: Interrupts) -> None:
    lock = threading.Lock()
    lock.acquire()

    def job() -> None:
        lock.acquire()
        try:
            time.sleep(0)
            time.sleep(0)
        finally:
            lock.release()

    waiting = Job(interrupts, job).interrupt()
    time.sleep(PATIENCE * 2)  # the wait that the test is about
    lock.release()
    assert isinstance(waiting.end().outcome, Shutdown)
    assert lock.acquire(timeout=1)


@pytest.mark.parametrize("way", ["with", "finally"])
def test_a_lock_that_is_held_during_a_long_call_is_freed(interrupts: Interrupts, way: str) -> None:
    lock = threading.Lock()

    def with_block() -> None:
        with lock:
            time.sleep(PATIENCE * 3)
        time.sleep(0)
        time.sleep(0)

    def finally_block() -> None:
        lock.acquire()
        try:
            time.sleep(PATIENCE * 3)
        finally:
            lock.release()
        time.sleep(0)
        time.sleep(0)

    Job(interrupts, with_block if way == "with" else finally_block).interrupt().end()
    assert lock.acquire(blocking=False)


@pytest.mark.parametrize("way", ["with", "finally", "except and finally"])
def test_code_that_tidies_up_comes_to_its_end(interrupts: Interrupts, way: str) -> None:
    begun, tidied = threading.Event(), []

    def tidy() -> None:
        begun.set()
        spin(PATIENCE * 3)
        tidied.append(way)

    class Guard:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            tidy()

    def with_block() -> None:
        with Guard():
            pass
        spin_for_ever()

    def finally_block() -> None:
        try:
            time.sleep(0)
        finally:
            tidy()
        spin_for_ever()

    def after_an_error() -> None:
        try:
            int("no number")
        except ValueError:
            time.sleep(0)
        finally:
            tidy()
        spin_for_ever()

    job = Job(interrupts, {"with": with_block, "finally": finally_block}.get(way, after_an_error))
    assert begun.wait(5)
    assert isinstance(job.interrupt().end().outcome, Shutdown)
    assert tidied == [way]


def test_a_loop_that_waits_in_its_except_block_is_interrupted_at_once(interrupts: Interrupts) -> None:
    def job() -> None:
        while True:
            try:
                int("no number")
            except ValueError:
                time.sleep(0.001)

    assert Job(interrupts, job).interrupt().end().ended_after < PATIENCE


def test_a_function_that_opens_what_a_with_block_guards_is_interrupted(interrupts: Interrupts) -> None:
    def connect() -> threading.Lock:
        spin_for_ever()

    def job() -> None:
        with connect():
            pass

    assert "connect" in Job(interrupts, job).interrupt().end().places


def test_an_interrupt_is_not_lost_in_a_finalizer(interrupts: Interrupts) -> None:
    class Resource:
        def __del__(self) -> None:
            for _ in range(10):  # Python prints what is raised here, and goes on
                pass

    def job() -> None:
        while True:
            Resource()

    assert isinstance(Job(interrupts, job).interrupt().end().outcome, Shutdown)


def test_an_event_loop_of_the_job_ends_with_the_interrupt(interrupts: Interrupts) -> None:
    async def poll() -> None:
        while True:
            await asyncio.sleep(0.001)

    assert "poll" in Job(interrupts, lambda: asyncio.run(poll())).interrupt().end().places


def test_an_interrupt_that_has_not_landed_is_raised_before_a_shielded_call_begins(interrupts: Interrupts) -> None:
    gate, calls = threading.Lock(), []
    gate.acquire()

    def job() -> None:
        gate.acquire()
        interrupts.shielded(lambda: calls.append("begun"))

    waiting = Job(interrupts, job).interrupt()
    gate.release()
    assert isinstance(waiting.end().outcome, Shutdown)
    assert calls == []


def test_other_tools_keep_their_ids(interrupts: Interrupts) -> None:
    taken = [number for number in (3, 4) if monitoring.get_tool(number) is None]
    for number in taken:
        monitoring.use_tool_id(number, "another tool")
    try:
        assert isinstance(Job(interrupts, spin_for_ever).interrupt().end().outcome, Shutdown)
        assert {monitoring.get_tool(number) for number in taken} == {"another tool"}
    finally:
        for number in taken:
            monitoring.free_tool_id(number)


def test_a_job_is_interrupted_and_a_warning_logged_when_no_tool_id_is_free(
    interrupts: Interrupts, caplog: pytest.LogCaptureFixture
) -> None:
    taken = [number for number in range(6) if monitoring.get_tool(number) is None]
    for number in taken:
        monitoring.use_tool_id(number, "another tool")
    try:
        assert isinstance(Job(interrupts, spin_for_ever).interrupt().end().outcome, Shutdown)
    finally:
        for number in taken:
            monitoring.free_tool_id(number)
    assert "sys.monitoring" in caplog.text


def test_a_service_that_is_installed_is_the_jobs_own_code(library: ModuleType) -> None:
    file = str(library.__file__)
    installed, own = Origins(), Origins(homes_of([library.loop]))
    code = compile("frame = __import__('sys')._getframe()", file, "exec")
    found: dict[str, Any] = {"__file__": file}
    exec(code, found)
    assert installed.of(found["frame"]) is Origin.LIBRARY
    assert own.of(found["frame"]) is Origin.JOB


def test_other_packages_of_a_namespace_are_no_code_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = tmp_path / "site-packages" / "shared_name_for_test" / "service"
    service.mkdir(parents=True)
    (service / "__init__.py").touch()
    (service / "handlers.py").write_text("def run():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    handlers = importlib.import_module("shared_name_for_test.service.handlers")
    assert homes_of([handlers.run]) == {str(service)}


@pytest.mark.parametrize(
    ("file", "origin"),
    [
        (threading.__file__, Origin.GUARDED),
        ("<frozen importlib._bootstrap>", Origin.GUARDED),
        (importlib.import_module("jobkit.context").__file__, Origin.GUARDED),
        (pytest.__file__, Origin.LIBRARY),
        (f"{sysconfig.get_path('stdlib')}/site-packages/any.py", Origin.LIBRARY),
        ("/usr/lib/python3/dist-packages/any.py", Origin.LIBRARY),
        (__file__, Origin.JOB),
        ("/srv/service/handlers.py", Origin.JOB),
    ],
)
def test_code_belongs_to_the_job_unless_it_is_installed(file: str, origin: Origin) -> None:
    found: dict[str, Any] = {"__file__": file}
    exec(compile("frame = __import__('sys')._getframe()", file, "exec"), found)
    assert Origins().of(found["frame"]) is origin


def test_generated_code_belongs_to_its_module(library: ModuleType) -> None:
    exec("def generated(): return __import__('sys')._getframe()", library.__dict__)
    assert Origins().of(library.generated()) is Origin.LIBRARY

"""The benchmark counts all that a worker's processes use, once."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from process_tree import ProcessTree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads proc(5)")

MB = 2**20

#: Starts a child with the same arguments but one fewer, then does its own part: says so, and ends at a line of input.
PROGRAM = """
import subprocess, sys, time
depth, seconds, size = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
child = None
if depth:
    arguments = [sys.executable, "-c", sys.argv[4], str(depth - 1), *sys.argv[2:]]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
kept = b"x" * size
while time.process_time() < seconds:
    pass
print("ready", flush=True)
if sys.stdin.readline() == "end the child\\n":
    child.communicate()
    print("ended", flush=True)
    sys.stdin.readline()
if child:
    child.communicate()
"""


@contextmanager
def family(depth: int, seconds: float, size: int) -> Iterator["subprocess.Popen[str]"]:
    """Processes below each other, each of which has used some time and holds some memory."""
    arguments = [sys.executable, "-c", PROGRAM, str(depth), str(seconds), str(size), PROGRAM]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate(timeout=30)  # the end of its input


def test_the_time_is_that_of_all_processes_as_the_kernel_accounts_it() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with family(depth=2, seconds=0.3, size=0) as process:
        seconds = ProcessTree(process.pid).cpu_seconds()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    known = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds >= 3 * 0.3 - 3 * 0.02  # two ticks of the kernel for each
    assert seconds == pytest.approx(known, abs=0.2)  # they also had to end


def test_the_time_of_a_process_that_has_ended_still_counts() -> None:
    with family(depth=1, seconds=0.2, size=0) as process:
        tree = ProcessTree(process.pid)
        before = tree.cpu_seconds()
        assert process.stdin is not None
        assert process.stdout is not None
        print("end the child", file=process.stdin, flush=True)
        assert process.stdout.readline() == "ended\n"
        assert len(tree.pids) == 2
        assert tree.cpu_seconds() >= before


def test_a_process_that_starts_later_counts_after_the_next_search() -> None:
    tree = ProcessTree(os.getpid())
    with family(depth=0, seconds=0, size=0) as process:
        assert process.pid not in tree.pids
        tree.refresh()
        assert process.pid in tree.pids


def test_the_memory_is_that_of_all_processes() -> None:
    with family(depth=1, seconds=0, size=0) as process:
        empty = ProcessTree(process.pid).pss_bytes()
    with family(depth=1, seconds=0, size=50 * MB) as process:
        filled = ProcessTree(process.pid).pss_bytes()
    assert filled - empty == pytest.approx(100 * MB, abs=10 * MB)


#: Holds 100 MB, and forks.
SHARING = """
import os, sys
kept = b"x" * 104857600
os.write(1, b"%d\\n" % os.fork())
sys.stdin.readline()
"""


def test_memory_that_processes_share_counts_once() -> None:
    command = [sys.executable, "-c", SHARING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "0\n" in {process.stdout.readline(), process.stdout.readline()}
        tree = ProcessTree(process.pid)
        assert 100 * MB < tree.pss_bytes() < 150 * MB
        assert len(tree.pids) == 2
        process.communicate(timeout=30)

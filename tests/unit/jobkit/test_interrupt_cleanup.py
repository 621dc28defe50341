"""Which lines of a function tidy up, read from its bytecode."""

import textwrap
from types import CodeType

import pytest

from jobkit.interrupts.cleanup import _lines

#: Each function, with a mark on every line that tidies up and nothing else.
SOURCES = {
    "try, except, else, finally": """
        lock.acquire()
        try:
            work()
        except ValueError:
            sleep(1)
        except (KeyError, OSError) as error:
            sleep(2)
            return note(error)
        else:
            work()
        finally:
            note(1)         # tidies up
            lock.release()  # tidies up
        return work()
    """,
    "a body that never ends": """
        try:
            while True:
                work()
        finally:
            lock.release()  # tidies up
    """,
    "a body that always fails": """
        try:
            raise ValueError
        except ValueError:
            sleep(1)
        finally:
            lock.release()  # tidies up
        return work()
    """,
    "a retry": """
        while True:
            try:
                return work()
            except OSError:
                sleep(1)
    """,
    "an except without a type": """
        try:
            work()
        except:
            sleep(1)
        return work()
    """,
    "a short end after a with": """
        with lock:
            sleep(1)
        return work()
    """,
    "blocks in a finally": """
        try:
            work()
        finally:
            for one in all:      # tidies up
                try:             # tidies up
                    one.close()  # tidies up
                except OSError:  # tidies up
                    note(one)    # tidies up
            with lock:           # tidies up
                note(2)          # tidies up
            if all:              # tidies up
                all.clear()      # tidies up
        return work()
    """,
    "a finally in an except": """
        try:
            work()
        except OSError:
            try:
                work()
            finally:
                lock.release()  # tidies up
            sleep(1)
        return work()
    """,
    "exception groups": """
        try:
            work()
        except* OSError:
            sleep(1)
        work()
    """,
    "a generator": """
        lock.acquire()
        try:
            yield work()
        finally:
            lock.release()  # tidies up
    """,
}


def function(source: str) -> CodeType:
    body = textwrap.indent(textwrap.dedent(source), "    ")
    module = compile(f"def f(lock, work, sleep, note, all):{body}", "f.py", "exec")
    return next(one for one in module.co_consts if isinstance(one, CodeType))


@pytest.mark.parametrize("name", SOURCES)
def test_the_lines_of_finally_blocks_tidy_up_and_no_others(name: str) -> None:
    code = function(SOURCES[name])
    lines = f"def f(lock, work, sleep, note, all):{textwrap.dedent(SOURCES[name])}".splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# tidies up" in line}
    # A line without an instruction of its own, such as `try:`, cannot be met.
    met = {line for _, _, line in code.co_lines()}
    assert _lines(code).in_finally == marked & met

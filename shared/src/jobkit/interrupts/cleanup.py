"""Code that tidies up: an interrupt there would leave behind what it is about to free."""

import dis
from functools import lru_cache
from types import CodeType, FrameType
from typing import Final

_METHODS: Final = frozenset({"__exit__", "__aexit__", "__del__"})

# Names in the interpreter's bytecode.
_HANDLER: Final = "PUSH_EXC_INFO"
_AFTER_HANDLER: Final = "COPY"
_LEAVES_WITH: Final = "WITH_EXCEPT_START"
_OTHER_HANDLERS: Final = frozenset({_LEAVES_WITH, "POP_TOP"})  # POP_TOP: an `except` without a type
_COMPARES: Final = frozenset({"CHECK_EXC_MATCH", "CHECK_EG_MATCH"})
_ENDS: Final = frozenset({"RERAISE", _HANDLER})
_TRY: Final = dis.opmap["NOP"]


def is_cleaning_up(frame: FrameType | None, line: int | None, end: CodeType) -> bool:
    """Return whether a function tidies up, in a ``finally`` block or an ``__exit__``.

    Args:
        frame: The function, or one that was called by it.
        line: Where ``frame`` is; its callers say that themselves.
        end: The callers are looked at up to this function.
    """
    while frame is not None and frame.f_code is not end:
        code = frame.f_code
        if code.co_name in _METHODS or line in _lines(code).in_finally:
            return True
        frame = frame.f_back
        line = frame and frame.f_lineno
    return False


def line_at(code: CodeType, offset: int) -> int | None:
    """Return the line of an instruction."""
    return next((line for start, end, line in code.co_lines() if start <= offset < end), None)


def is_between(frame: FrameType) -> bool:
    """Return whether the line that ``frame`` begins enters or leaves a block that guards something.

    ``lock.acquire()`` stands before its ``try``, and the end of a ``with`` block is a step of its own.
    """
    code = frame.f_code
    return frame.f_lineno in _lines(code).of_with or code.co_code[frame.f_lasti] == _TRY


class _Lines:
    """The lines of one function that tidy up, and those of its ``with`` statements.

    The compiler writes a ``finally`` block twice, with the same line numbers: for the normal end, and as a handler of
    exceptions. Other than the handler of an ``except`` block, that one compares no types and drops no exception.
    """

    def __init__(self, code: CodeType) -> None:
        self.in_finally: frozenset[int] = frozenset()
        self.of_with: frozenset[int] = frozenset()
        if not code.co_exceptiontable:
            return
        bytecode = dis.Bytecode(code)
        steps = list(bytecode)
        withs = {step.positions.lineno for step in steps if step.opname == _LEAVES_WITH and step.positions}
        self.of_with = frozenset(line for line in withs if line is not None)
        names = {step.offset: step.opname for step in steps}
        blocks = [
            (entry.start, entry.target)
            for entry in bytecode.exception_entries  # type: ignore[attr-defined]  # since Python 3.11, undocumented
            if (names[entry.start], names[entry.target]) == (_HANDLER, _AFTER_HANDLER)
            and _is_finally(steps, entry.start)
        ]
        self.in_finally = frozenset(
            line
            for first, last in blocks
            for start, end, line in code.co_lines()
            if line is not None and start < last and end > first
        )


def _is_finally(steps: list[dis.Instruction], handler: int) -> bool:
    """Return whether a ``finally`` block, and no ``except`` or ``with``, is handled at the offset ``handler``."""
    names = [step.opname for step in steps if step.offset > handler]
    if names[0] in _OTHER_HANDLERS:
        return False
    return next((name not in _COMPARES for name in names if name in _COMPARES | _ENDS), True)


@lru_cache(maxsize=4096)
def _lines(code: CodeType) -> _Lines:
    return _Lines(code)

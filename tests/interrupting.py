"""Ctrl-C at a chosen moment.

CPython looks for signals between two instructions only: on entering a Python function, after a call into C and on
jumping backwards. A trace function counts these places and raises at one of them, so a test can try them all.
"""

import contextlib
import dis
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import TraceFunction

CALLS: Final = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW"})
RETURNED: Final = (-1, "")


class InterruptError(KeyboardInterrupt):
    """Raised in place of what Ctrl-C raises."""


@functools.cache
def operations(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


def looks_for_signals(offset: int, operation: str, following: int) -> bool:
    """Whether CPython looks for signals between an operation and the one that follows it."""
    return operation in CALLS or ("JUMP_BACKWARD" in operation and following < offset)


class Tracer:
    """Counts the places in code of `file`s whose names contain `within`, and raises at number `at`."""

    def __init__(self, at: int, within: str) -> None:
        self.at = at
        self.seen = 0
        self._within = within
        self._before: dict[FrameType, tuple[int, str]] = {}

    def call(self, frame: FrameType, event: str, argument: object) -> "TraceFunction | None":
        if frame.f_back is not None:
            # A Python function returns to its caller without a look at the signals.
            self._before[frame.f_back] = RETURNED
        if self._within not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._place()
        return self.step

    def step(self, frame: FrameType, event: str, argument: object) -> "TraceFunction":
        if event == "opcode":
            offset = frame.f_lasti
            before = self._before.get(frame, RETURNED)
            self._before[frame] = (offset, operations(frame.f_code).get(offset, ""))
            if looks_for_signals(*before, offset):
                self._place()
        return self.step

    def _place(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise InterruptError


def interrupted(act: Callable[[], object], at: int, within: str) -> bool:
    """Run `act` with an interruption at place number `at`; False when it ended before.

    In a thread of its own, since CPython does not forget what was being handled where a trace function raises.
    """
    tracer = Tracer(at, within)
    outcome: list[BaseException | None] = []

    def run() -> None:
        sys.settrace(tracer.call)
        try:
            act()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    [error] = outcome
    if error is not None and not isinstance(error, InterruptError):
        raise error
    return error is not None


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Coverage takes a lock for lines that it sees for the first time: what a signal handler raises there leaves it
    locked, and all stands still.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)

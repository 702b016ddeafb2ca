"""The signals that ask for the end: what runs then ends in good order, and leaves nothing behind."""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Final

ENDING: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
"""SIGHUP: the terminal was closed. Windows has none."""


class StopServingError(BaseException):
    """A signal asked for the end."""


class Signals(AbstractContextManager["Signals"]):
    """The first of them ends what runs within, the others have no effect."""

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in ENDING}
        self._caught = self._held = False

    def __enter__(self) -> "Signals":
        for number, handler in self._before.items():
            # What is ignored from the start stays so, as nohup has it; a shell ignores Ctrl-C for what is behind &.
            if handler != signal.SIG_IGN or number == signal.SIGINT:
                signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # of a handler that is none of Python's
                signal.signal(number, handler)
        return isinstance(error, StopServingError)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """The end comes after this."""
        self._held = True
        yield
        self._held = False
        if self._caught:
            raise StopServingError

    def ignore(self) -> None:
        """From now on: the end has come already."""
        self._caught = True

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._caught:
            return
        self._caught = True
        if not self._held:
            raise StopServingError

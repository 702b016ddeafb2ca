"""Progress of long transfers: a bar where somebody looks at a terminal and rich is there, nothing otherwise."""

import contextlib
import importlib
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PATIENCE_SECONDS: Final = 1.0
"""A transfer that takes no longer shows nothing."""

REDRAW_SECONDS: Final = 0.1


class Bar:
    """Shows the transfers of one direction, one after another."""

    def __init__(self, what: str, console: "Console", patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._what = what
        self._console = console
        self._patience = patience_seconds
        self._began: float | None = None
        self._drawn = 0.0
        self._shown: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Never raises an error: a terminal that is gone must not end a transfer."""
        with contextlib.suppress(Exception):
            self._show(done, total)

    def _show(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done >= total:
            self._end()
        elif self._began is None:
            self._began = now
        elif now - self._began > self._patience and now - self._drawn > REDRAW_SECONDS:
            self._drawn = now
            self._draw(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._shown is None:
            progress = bar(self._console)
            self._shown = progress, progress.add_task(self._what, total=total)
            progress.start()
        progress, task = self._shown
        progress.update(task, completed=done, refresh=True)

    def _end(self) -> None:
        self._began = None
        if self._shown is not None:
            progress, _ = self._shown
            self._shown = None
            progress.stop()


def bar(console: "Console") -> "Progress":
    """Rich is an extra, and no part of importing ptrtensor: it is imported when a bar is drawn."""
    rich = importlib.import_module("rich.progress")
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(binary_units=True),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    made: Progress = rich.Progress(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,  # what the program prints meanwhile is its own
        redirect_stderr=False,
    )
    return made


def terminal_bars(worker: str) -> tuple[Bar, Bar] | tuple[None, None]:
    """For what is sent to a worker and what is received from it; none where nobody would see them."""
    if sys.stderr is None or not sys.stderr.isatty() or find_spec("rich") is None:
        return None, None
    console = importlib.import_module("rich.console").Console(stderr=True)
    return Bar(f"to {worker}", console), Bar(f"from {worker}", console)

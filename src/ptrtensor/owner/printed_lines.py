"""What a session's process prints, warnings of torch for instance, as lines of the log: a few, and then how many more.

A client has it printed as often as it likes.
"""

import logging
import threading
from io import BufferedReader
from typing import Final

log: Final = logging.getLogger("ptrtensor.serve")

MOST_LINES: Final = 20
MOST_BYTES: Final = 1000
"""Of one line; what is longer is several."""

CHUNK_BYTES: Final = 65536


class PrintedLines:
    """Of one process, until it ends."""

    def __init__(self, printed: BufferedReader, pid: int) -> None:
        self.session = ""
        """Its number, once it has one."""
        self._printed = printed
        self._pid = pid
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Until all is written down, where the process has ended."""
        self._thread.join(seconds)

    def _read(self) -> None:
        with self._printed:
            for _ in range(MOST_LINES):
                line = self._printed.readline(MOST_BYTES)
                if not line:
                    return
                if text := line.decode(errors="replace").rstrip():
                    self._log("a session's process printed", text=text)
            count = 0
            while more := self._printed.read1(CHUNK_BYTES):
                count += more.count(b"\n")
        if count:
            self._log("a session's process printed more", lines=count)

    def _log(self, event: str, **fields: object) -> None:
        log.warning(event, extra={"session": self.session, "pid": self._pid, **fields})

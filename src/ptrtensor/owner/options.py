"""What a server is started with, by the command or from Python. Imported without the extra `serve`."""

import threading
from dataclasses import dataclass
from pathlib import Path

from ptrtensor.errors import PtrTensorError
from ptrtensor.owner.policy import bytes_of
from ptrtensor.wire.limits import MAX_ID_CHARACTERS


@dataclass(frozen=True, kw_only=True)
class Options:
    """:raises PtrTensorError: the id cannot be one, or a number of something is less than 1, or none."""

    id: str
    identity: Path
    trust: Path = Path("trusted")
    listen: str = "127.0.0.1:7700"
    data: tuple[Path, ...] = ()
    policy: Path | None = None
    state: Path = Path("state.sqlite")
    audit: Path | None = None
    compute_device: str = "cpu"
    threads: int | None = None
    sessions: int = 32
    max_memory: int | None = None
    max_objects: int = 1_000_000
    lease: float = 300.0

    def __post_init__(self) -> None:
        if not self.id.isprintable() or not 0 < len(self.id) <= MAX_ID_CHARACTERS:
            raise PtrTensorError(f"id is a text of 1 to {MAX_ID_CHARACTERS} printable characters, not {self.id[:40]!r}")
        for name in ("threads", "sessions", "max_objects"):
            number = getattr(self, name)
            if number is not None and not (type(number) is int and number > 0):
                raise PtrTensorError(f"{name} is a whole number from 1, not {number!r}")


def memory_of(size: object, name: str) -> int | None:
    """So many bytes, for the option of that name.

    :raises PtrTensorError: it is no size.
    """
    try:
        return None if size is None else bytes_of(size)
    except ValueError as error:
        raise PtrTensorError(f"{name}: {error}") from error


def lease_of(seconds: object, name: str) -> float:
    """:raises PtrTensorError: it is no number, or nobody can wait for so long."""
    if not isinstance(seconds, int | float):
        raise PtrTensorError(f"{name} is a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise PtrTensorError(f"{name}: {seconds:g} is no number of seconds that a session can wait")
    return seconds

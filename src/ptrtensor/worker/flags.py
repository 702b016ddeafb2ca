"""The client's flags: what torch keeps for the whole process and a client expects to find as at home (D8)."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from ptrtensor._torch.flags import Flags, read_flags, write_flags
from ptrtensor._torch.names import DTYPES
from ptrtensor.errors import ProtocolError
from ptrtensor.wire.messages import Settings


class ClientFlags:
    """Those of one session; this process may serve others, or be the client itself."""

    def __init__(self) -> None:
        self._flags: Flags | None = None

    def configure(self, settings: Settings) -> None:
        """:raises ProtocolError: torch has no such settings."""
        flags: Flags = msgspec.structs.astuple(settings)
        dtype = DTYPES.get(flags[0])
        if dtype is None or not dtype.is_floating_point or flags[4] not in ("highest", "high", "medium"):
            raise ProtocolError("the client sent settings that torch does not have")
        self._flags = flags

    @contextmanager
    def applied(self) -> Iterator[None]:
        """They hold within; afterwards the flags are what they were."""
        before = read_flags()
        if self._flags is None or self._flags == before:
            yield
            return
        write_flags(self._flags)
        try:
            yield
        finally:
            write_flags(before)

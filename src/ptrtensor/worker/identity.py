"""Who a worker is, and whether a client can work with it."""

import uuid

import msgspec

from ptrtensor.wire.limits import PROTOCOL_VERSION
from ptrtensor.wire.messages import Hello, Refused, Welcome


class Identity(msgspec.Struct, frozen=True):
    """What a worker says of itself; `epoch` differs each time it is started."""

    worker: str
    ptrtensor: str
    torch: str
    epoch: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)

    def greet(self, hello: Hello, compute_device: str) -> Welcome | Refused:
        """[P1.4]: the protocol and torch's minor version must agree, for predictions to hold."""
        if hello.protocol != PROTOCOL_VERSION:
            return Refused(
                f"this worker speaks version {PROTOCOL_VERSION} of the protocol (ptrtensor {self.ptrtensor}), "
                f"the client {hello.protocol} (ptrtensor {hello.ptrtensor})",
                version=True,
            )
        if minor_version(hello.torch) != minor_version(self.torch):
            return Refused(
                f"this worker runs torch {self.torch}, the client {hello.torch}: install the same minor version "
                "on both sides",
                version=True,
            )
        return Welcome(PROTOCOL_VERSION, self.ptrtensor, self.torch, self.worker, self.epoch, compute_device)


def minor_version(version: str) -> str:
    """2.13 of 2.13.0+cpu."""
    return ".".join(version.split("+")[0].split(".")[:2])

"""Asking the owner of private data for a value, and having it once he has approved."""

import time
from typing import Final

from torch import Tensor

from ptrtensor._torch.memory import tensor_of
from ptrtensor._torch.state import isolated
from ptrtensor.client.client import Client
from ptrtensor.errors import ObjectNotFoundError, ProtocolError, PtrTensorError
from ptrtensor.tensor.arguments import checked_texts
from ptrtensor.wire import messages
from ptrtensor.wire.limits import MAX_REASON_CHARACTERS, MAX_RELEASE_BYTES

POLL_SECONDS: Final = 1.0


class ReleaseRequest:
    """A request for one private value, as it was when it was asked for. It outlives this session, and the worker's."""

    def __init__(self, client: Client, release: messages.Release) -> None:
        self._client = client
        self._release = release

    @property
    def id(self) -> str:
        """By which the owner finds it, with ``ptrtensor requests``."""
        return self._release.id

    @property
    def reason(self) -> str:
        return self._release.reason

    @property
    def answer(self) -> str:
        """What the owner said to it, as far as `status` has heard."""
        return self._release.answer

    @property
    def status(self) -> messages.Status:
        """``"pending"``, ``"approved"``, ``"denied"`` or ``"collected"``; asks the worker.

        :raises WorkerLostError: the worker is gone; ask again with another session's `Worker.requests`.
        """
        for release in releases(self._client):
            if release.id == self._release.id:
                self._release = release
                return release.status
        raise ObjectNotFoundError(f"worker {self._client.worker} knows of no request {self.id} of yours any more")

    def wait(self, timeout: float | None = None, *, poll_seconds: float = POLL_SECONDS) -> messages.Status:
        """Wait for the owner's decision, for so many seconds at most, and return the status.

        :raises TimeoutError: it is still pending.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.status) == "pending":
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"the owner of worker {self._client.worker} has not decided about request {self.id}")
            time.sleep(poll_seconds if left is None else min(poll_seconds, left))
        return status

    def get(self) -> Tensor:
        """The value. It can be had once.

        :raises PermissionDeniedError: it is not approved, or was collected before.
        :raises RemoteOpError: there is none, since an operation that it was computed by failed.
        """
        value, payload = self._client.request(lambda number: messages.CollectRelease(number, self.id), messages.Value)
        if value.meta is None:
            raise ProtocolError(f"worker {self._client.worker} sent no tensor")
        return isolated(tensor_of, value.meta, payload)

    def __repr__(self) -> str:
        return f"<ReleaseRequest {self.id} at {self._client.worker}: {self._release.status}>"


def ask_release(client: Client, name: int, size: int, reason: str) -> ReleaseRequest:
    """For a value of so many bytes.

    :raises PermissionDeniedError: it may not be asked for. :raises PtrTensorError: that is no reason, or too large.
    """
    if size > MAX_RELEASE_BYTES:
        raise PtrTensorError(
            f"request() takes values of up to {MAX_RELEASE_BYTES} bytes, and this one has {size}: ask for parts of it"
        )
    (text,) = checked_texts([reason], "request()")
    if not text.strip() or len(text) > MAX_REASON_CHARACTERS:
        raise PtrTensorError(
            f"request() takes the reason, for the owner to read, in 1 to {MAX_REASON_CHARACTERS} characters"
        )
    found, _ = client.request(lambda number: messages.AskRelease(number, name, text), messages.Releases)
    (release,) = found.releases
    return ReleaseRequest(client, release)


def releases(client: Client) -> list[messages.Release]:
    """What this client asked for, the latest first."""
    found, _ = client.request(messages.ListReleases, messages.Releases)
    return found.releases

"""The errors of ptrtensor: one root, and a class for each question "whose fault is it?".

::

    PtrTensorError
    ├── WorkerMismatchError     your call mixes tensors of different workers, or a pointer with local data
    ├── SpentPointerError       your call uses a pointer whose value was taken away by get() or move()
    ├── ObjectNotFoundError     the worker holds nothing under that name
    ├── UnsupportedOpError      this cannot be done with a pointer, here or at all
    ├── RemoteOpError           the operation was sent and failed at the worker
    ├── PermissionDeniedError   the owner of the data does not allow it
    │   └── QuotaExceededError      it would take more than the owner grants
    ├── PolicyError             a policy file cannot be used
    ├── AuditError              the audit log cannot be written, or was altered
    ├── DatasetError            a file cannot be published
    ├── IdentityError           an identity cannot be used, or one side does not trust the other's
    ├── ProtocolError           the peer does not speak the protocol
    │   ├── VersionMismatchError    it speaks another version of it
    │   └── MessageTooLargeError    it announces more than the agreed limits
    └── WorkerLostError         the worker is closed, has died, or cannot be reached
"""

from typing import Final


class PtrTensorError(Exception):
    """Root of every error that ptrtensor raises; raised itself for a wrong set-up (ids, device indices)."""


class WorkerMismatchError(PtrTensorError, RuntimeError):
    """One operation was given tensors that live in different places. Send or fetch one of them first.

    Also a `RuntimeError`, as torch's own error for tensors of two devices is.
    """


class SpentPointerError(PtrTensorError):
    """The pointer's value was taken away by ``get()`` or ``move()``; use what those returned."""


class ObjectNotFoundError(PtrTensorError):
    """The worker holds no object under the name that was asked for."""


class UnsupportedOpError(PtrTensorError, NotImplementedError):
    """The operation, layout or conversion is not available on a pointer; the message names the way round.

    Also a `NotImplementedError`, as torch's own error for an operation that a device lacks is.
    """


class RemoteOpError(PtrTensorError, RuntimeError):
    """An operation failed at the worker.

    The message shows the line of the caller that issued the operation, the operation with the shapes of its
    arguments, and the worker's traceback. Also a `RuntimeError`, as most failures of torch are; and an `IndexError`
    or the like, where torch's was.
    """


class PermissionDeniedError(PtrTensorError):
    """The policy of the data's owner refuses the request."""


class QuotaExceededError(PermissionDeniedError):
    """More objects, memory, operations or time than the owner of the worker grants; that operation alone has failed."""


class PolicyError(PtrTensorError):
    """A policy file cannot be read, or says something that has no meaning; the message names the line."""


class AuditError(PtrTensorError):
    """The audit log cannot be read or written, or does not hold together: a line was altered, removed or cut off."""


class DatasetError(PtrTensorError):
    """A file that is to be published cannot be read, or holds no tensors."""


class IdentityError(PtrTensorError):
    """An identity cannot be read or is not valid, or one of the two sides does not trust the other's certificate."""


class ProtocolError(PtrTensorError):
    """The peer sent bytes that are not the protocol. The connection is given up, never parsed further."""


class VersionMismatchError(ProtocolError):
    """The two ends run versions that cannot work together; the message names both and which to change."""


class MessageTooLargeError(ProtocolError):
    """A message is larger than the limits of the protocol (`ptrtensor.wire.limits`)."""


class WorkerLostError(PtrTensorError):
    """The worker is closed, has died or cannot be reached; what it held is gone."""


def also(kind: type[Exception]) -> type[RemoteOpError]:
    """A `RemoteOpError` that is one of these too."""
    return type(
        RemoteOpError.__name__, (RemoteOpError, kind), {"__module__": __name__, "__doc__": RemoteOpError.__doc__}
    )


REMOTE_ERRORS: Final[dict[str, type[RemoteOpError]]] = {
    kind.__name__: also(kind)
    for kind in (
        IndexError,
        ValueError,
        TypeError,
        NotImplementedError,
        UnsupportedOpError,
        PermissionDeniedError,
        QuotaExceededError,
    )
}
"""By the name of the class at the worker; so ``except IndexError`` catches what it would catch of local tensors."""

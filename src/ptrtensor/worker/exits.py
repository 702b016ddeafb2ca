"""The roads by which what is here can leave: each asks the owner about what is private [P11.3], [P12]."""

from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.memory import bytes_of, dense, is_out_of_memory, meta_of
from ptrtensor.errors import PermissionDeniedError
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.control import MOST, Asking, Reading
from ptrtensor.wire.limits import MAX_RELEASE_BYTES
from ptrtensor.wire.messages import (
    NO_COMMAND,
    AskRelease,
    CollectRelease,
    Denied,
    Describe,
    Described,
    Extent,
    Failed,
    Failure,
    Fetch,
    ListReleases,
    Missing,
    Releases,
    Value,
    WorkerMessage,
)
from ptrtensor.wire.metadata import contiguous_stride
from ptrtensor.worker.executor import explain
from ptrtensor.worker.owner import NO_SUCH_OBJECT, TOO_MUCH_MEMORY, Owner, private
from ptrtensor.worker.store import PUBLIC, Labels, Store

Reply = tuple[WorkerMessage, Buffer | None]

NUMBERS: Final = frozenset(
    (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64)
)

WITHOUT_VALUE = "there is no value: an operation that it was computed by failed"


class Exits:
    """Of one session."""

    def __init__(self, store: Store, owner: Owner) -> None:
        self._store = store
        self._owner = owner

    def fetch(self, fetch: Fetch) -> Reply:
        labels = self._store.labels.get(fetch.name, PUBLIC)
        value = self._store.objects.get(fetch.name)
        if fetch.moves and labels and not self._owner.is_open(labels):
            return Denied(fetch.request, private("the value", labels)), None
        if labels:
            try:
                self._check_value(fetch.name, value, labels)
            except PermissionDeniedError as error:
                return Denied(fetch.request, str(error)), None
        is_counted = bool(labels) and not self._owner.is_open(labels)
        poison = self._store.poisoned.get(fetch.name)
        if poison is not None:
            return Failed(fetch.request, untold(poison.failure) if is_counted else poison.failure), None
        if value is None:
            return self._missing(fetch, labels), None
        if not isinstance(value, Tensor):
            return Value(fetch.request, scalar=value), None
        try:
            return value_of(fetch.request, plain(value) if is_counted else value)
        except Exception as error:
            if not labels and is_out_of_memory(error):
                self._owner.note_denial(TOO_MUCH_MEMORY, fetch.name, meta=meta_of(value))
            return Failed(fetch.request, Failure(-fetch.name, "get", *explain(error))), None

    def describe(self, describe: Describe) -> Denied | Described | Failed | Missing:
        labels = self._store.labels.get(describe.name, PUBLIC)
        if labels:
            what = "what depends on values (a shape, or whether it worked)"
            reading = self._reading(what, describe.name, labels, "", 0, 0)
            try:
                if self._owner.is_open(labels):
                    self._owner.check_reading(reading)
                else:
                    self._owner.deny(reading)
            except PermissionDeniedError as error:
                return Denied(describe.request, str(error))
        poison = self._store.poisoned.get(describe.name)
        if poison is not None:
            return Failed(describe.request, poison.failure)
        outcome = self._store.outcomes.pop(describe.name, None)
        if outcome is None:
            return self._missing(describe, labels)
        fresh = [extent if isinstance(extent, Extent) else None for extent in outcome.fresh]
        return Described(describe.request, fresh, outcome.written)

    def release(self, message: AskRelease | ListReleases | CollectRelease) -> Reply:
        try:
            match message:
                case AskRelease(request, name, reason):
                    labels = self._store.labels.get(name, PUBLIC)
                    if not labels:
                        return Denied(request, "it is not private, or not there: there is nothing to ask for"), None
                    return Releases(request, self._owner.ask(self._asking(name, labels, reason))), None
                case ListReleases(request):
                    return Releases(request, self._owner.releases()), None
                case CollectRelease(request, id):
                    found = self._owner.collect(id)
                    if found.meta is None:
                        return Failed(request, Failure(NO_COMMAND, "what you asked for", found.failure, "")), None
                    return Value(request, found.meta), found.value
        except PermissionDeniedError as error:
            return Denied(message.request, str(error)), None

    def _missing(self, asked: Fetch | Describe, labels: Labels) -> Missing:
        if not labels:
            self._owner.note_denial(NO_SUCH_OBJECT, asked.name)
        return Missing(asked.request, asked.name)

    def _check_value(self, name: int, value: object, labels: Labels) -> None:
        """What has no value costs as much as a number: that it has none is told."""
        meta = meta_of(value) if isinstance(value, Tensor) else None
        elements = max(1, value.numel()) if isinstance(value, Tensor) else 1
        size = 8 if meta is None else max(1, min(meta.nbytes, MOST))
        tensor = "" if meta is None else str(meta)
        self._owner.check_reading(self._reading("the value", name, labels, tensor, elements, size))

    def _reading(self, what: str, name: int, labels: Labels, tensor: str, elements: int, size: int) -> Reading:
        return Reading(what, name, tensor, tuple(sorted(labels)), elements, size, self._store.origins.get(name, ""))

    def _asking(self, name: int, labels: Labels, reason: str) -> Asking:
        """That there is no value, or one too large, is for the owner to tell."""
        value = self._store.objects.get(name)
        poison = self._store.poisoned.get(name)
        failure, meta, data = WITHOUT_VALUE if poison is None else poison.failure.error, None, b""
        try:
            if value is not None:
                tensor = value if isinstance(value, Tensor) else scalar(value)
                if tensor.numel() * tensor.element_size() > MAX_RELEASE_BYTES:
                    failure = f"the value has more than {MAX_RELEASE_BYTES} bytes, which are not released"
                else:
                    released = plain(tensor)
                    meta, data, failure = meta_of(released), bytes(bytes_of(released)), ""
        except Exception as error:  # out of memory
            failure, _ = explain(error)
        return Asking(name, tuple(sorted(labels)), reason, meta, data, failure, self._store.origins.get(name, ""))


def untold(failure: Failure) -> Failure:
    """That it failed, for the price of a number; torch's words hold as many as a client wants."""
    return Failure(failure.sequence, failure.operation.partition("(")[0], WITHOUT_VALUE, "")


def scalar(value: bool | int | float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def plain(tensor: Tensor) -> Tensor:
    """What a private tensor is to others: its values in order. How they were laid out may depend on others, as may the
    bits that make no difference: those of a true that is not 1, and of what is not a number.
    """
    values = dense(tensor).to("cpu").contiguous()
    if values.dtype is torch.bool:
        values = values.view(torch.uint8) != 0
    elif values.dtype in NUMBERS and bool(values.isnan().any()):
        values = values.new_full((), torch.nan).where(values.isnan(), values)
    return values.as_strided(values.shape, contiguous_stride(tuple(values.shape)))  # those of size 1 have any stride


def value_of(request: int, tensor: Tensor) -> Reply:
    values = dense(tensor).to("cpu")
    return Value(request, meta_of(values)), bytes_of(values)

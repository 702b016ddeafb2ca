"""What a worker tells of its tensors is checked before it is used: a wrong answer is a `ProtocolError`."""

from collections.abc import Callable

import pytest
import torch
from msgspec.structs import replace

import ptrtensor as pt
from ptrtensor.tensor.told import told_extent
from ptrtensor.transport.inprocess import InProcessTransport
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.messages import Described, Entry, Extent, Found, Value, WorkerMessage
from ptrtensor.wire.metadata import TensorMeta

META = TensorMeta((2, 1), (1, 2), "int64")

IMPOSSIBLE = {
    "dtype": Extent(TensorMeta((2,), (1,), "floatx"), 0),
    "negative size": Extent(TensorMeta((-3,), (1,), "float32"), 0),
    "strides": Extent(TensorMeta((2, 2), (1,), "float32"), 0),
    "size": Extent(TensorMeta((2**63,), (1,), "float32"), 0),
    "elements": Extent(TensorMeta((2**40, 2**40), (1, 1), "float32"), 0),
    "conj": Extent(TensorMeta((2,), (1,), "float32", conj=True), 0),
    "negative offset": Extent(META, -1),
    "offset": Extent(META, 2**63),
    "end": Extent(META, 2**60),
}


def lie(worker: pt.VirtualWorker, change: Callable[[WorkerMessage], WorkerMessage]) -> None:
    """From now on the worker's answers are changed."""
    honest, transport = worker._session.handle, worker.client._transport
    assert isinstance(transport, InProcessTransport)
    transport._handle = lambda message, payload: [(change(reply), data) for reply, data in honest(message, payload)]


def described(*fresh: Extent | None, written: tuple[Extent, ...] = ()) -> Callable[[WorkerMessage], WorkerMessage]:
    def change(reply: WorkerMessage) -> WorkerMessage:
        return replace(reply, fresh=list(fresh), written=list(written)) if isinstance(reply, Described) else reply

    return change


def found(*entries: Entry) -> Callable[[WorkerMessage], WorkerMessage]:
    def change(reply: WorkerMessage) -> WorkerMessage:
        if not isinstance(reply, Found):
            return reply
        first = reply.entries[0].name
        return replace(reply, entries=[replace(entry, name=first + entry.name) for entry in entries])

    return change


@pytest.fixture
def pointer(virtual_worker: pt.VirtualWorker) -> pt.PointerTensor:
    return pt.send(torch.tensor([1.0, 0.0, 2.0]), virtual_worker)


@pytest.mark.parametrize("extent", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_result_that_no_tensor_can_be(
    extent: Extent, virtual_worker: pt.VirtualWorker, pointer: pt.PointerTensor
) -> None:
    lie(virtual_worker, described(extent))
    with pytest.raises(pt.ProtocolError):
        torch.nonzero(pointer)


@pytest.mark.parametrize("extent", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_object_that_no_tensor_can_be(
    extent: Extent, virtual_worker: pt.VirtualWorker, pointer: pt.PointerTensor
) -> None:
    pointer.tag("#x")
    lie(virtual_worker, found(Entry(0, extent, ("#x",), "")))
    with pytest.raises(pt.ProtocolError):
        virtual_worker.search("#x")
    with pytest.raises(pt.ProtocolError):
        pt.Worker.objects.__get__(virtual_worker)


@pytest.mark.parametrize("count", [0, 2, MAX_RESULTS + 1])
def test_another_number_of_results(count: int, virtual_worker: pt.VirtualWorker, pointer: pt.PointerTensor) -> None:
    lie(virtual_worker, described(*[Extent(META, 0)] * count))
    with pytest.raises(pt.ProtocolError, match=f"tells of {count} results of aten.nonzero"):
        torch.nonzero(pointer)


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_what_was_written(
    count: int, virtual_worker: pt.VirtualWorker, pointer: pt.PointerTensor
) -> None:
    out = torch.empty(0, dtype=torch.int64, device=virtual_worker.device)
    lie(virtual_worker, described(written=(Extent(META, 0),) * count))
    with pytest.raises(pt.ProtocolError, match=f"{count} arguments that it wrote to, which are 1"):
        torch.nonzero(pointer, out=out)


def test_no_number_where_there_must_be_one(virtual_worker: pt.VirtualWorker, pointer: pt.PointerTensor) -> None:
    lie(virtual_worker, lambda reply: replace(reply, scalar=None) if isinstance(reply, Value) else reply)
    with pytest.raises(pt.ProtocolError, match="sent no number"):
        torch.equal(pointer, pointer)


@pytest.mark.parametrize("names", [[1], [-5], [0, 0], [1, 0], [0, 2], range(MAX_RESULTS + 1)])
def test_other_names_than_those_that_were_reserved(
    names: list[int], virtual_worker: pt.VirtualWorker, pointer: pt.PointerTensor
) -> None:
    pointer.tag("#x")
    lie(virtual_worker, found(*[Entry(name, Extent(META, 0), ("#x",), "") for name in names]))
    with pytest.raises(pt.ProtocolError, match="other names"):
        virtual_worker.search("#x")


@pytest.mark.parametrize(
    "extent",
    [
        Extent(TensorMeta((2,), (1,), "int64"), 2**60 - 3),
        Extent(TensorMeta((2**31, 2**31), (0, 0), "float32"), 5),
        Extent(TensorMeta((0, 2**63 - 1), (2**63 - 1, 1), "int8"), 0),
        Extent(TensorMeta((2,), (1,), "complex64", conj=True, neg=True), 0),
    ],
    ids=["far", "repeated", "none", "lazy"],
)
def test_what_can_be_is_taken(extent: Extent) -> None:
    meta, offset = told_extent(extent)
    assert meta.same_as(extent.meta) and offset == extent.offset

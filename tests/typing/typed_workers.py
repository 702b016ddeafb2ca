"""What a type checker knows of workers, the hook and the errors. Checked by mypy, never run."""

from collections.abc import Mapping, Sequence
from typing import assert_type

import torch
from torch import Tensor

import ptrtensor as pt
from ptrtensor import errors


def any_worker(bob: pt.Worker, tensor: Tensor) -> None:
    assert_type(bob.id, str)
    assert_type(bob.device, torch.device)
    assert_type(bob.stats(), dict[str, int])
    names: Mapping[int, object] = bob.objects
    found: Sequence[Tensor] = bob.search("#a", "#b")
    sent: Tensor = bob.send(tensor)
    with bob as entered:
        assert_type(entered, pt.Worker)
    with bob.device:
        pass
    bob.synchronize()
    bob.recover()
    bob.manual_seed(1)
    bob.manual_seed(None)
    bob.close()
    pt.synchronize()
    del names, found, sent


def virtual() -> None:
    bob = pt.VirtualWorker(id="bob")
    hooked = pt.VirtualWorker(pt.TorchHook(torch), id="bob")
    assert_type(bob.objects, Mapping[int, Tensor])
    assert_type(bob._objects, Mapping[int, Tensor])
    assert_type(bob.send(torch.ones(1)), pt.PointerTensor)
    assert_type(bob.search("#a"), list[pt.PointerTensor])
    with bob as entered:
        assert_type(entered, pt.VirtualWorker)
    workers: list[pt.Worker] = [bob, hooked]
    del workers


def elsewhere() -> None:
    process = pt.ProcessWorker(id="bob", compute_device="cpu")
    remote = pt.RemoteWorker("127.0.0.1:7700", id="bob")
    assert_type(process.send(torch.ones(1)), pt.PointerTensor)
    assert_type(remote.search("#a"), list[pt.PointerTensor])
    workers: list[pt.Worker] = [process, remote]
    del workers


def serving() -> None:
    with pt.DataServer("127.0.0.1:0", id="bob", identity="bob", data=["x.csv"], max_memory="8 GiB") as server:
        assert_type(server, pt.DataServer)
        assert_type(server.address, str)
        assert_type(server.publish(torch.ones(1), name="x", tags=("#x",), private=False), None)
        server.publish("x", name="x")  # type: ignore[arg-type]
    pt.DataServer(id="bob")  # type: ignore[call-arg]


def here(hook: pt.TorchHook) -> None:
    assert_type(pt.local_worker.id, str)
    assert_type(pt.local_worker.objects, Mapping[int, Tensor])
    assert_type(hook.local_worker.id, str)
    assert_type(hook.close(), None)
    with pt.TorchHook() as opened:
        assert_type(opened, pt.TorchHook)


def caught() -> None:
    try:
        pt.synchronize()
    except pt.RemoteOpError as error:
        assert_type(error, errors.RemoteOpError)
        also: RuntimeError = error
        root: pt.PtrTensorError = error
        del also, root
    except (pt.VersionMismatchError, pt.MessageTooLargeError) as refused:
        protocol: pt.ProtocolError = refused
        del protocol
    every: list[type[pt.PtrTensorError]] = [
        pt.WorkerMismatchError, pt.SpentPointerError, pt.ObjectNotFoundError, pt.PermissionDeniedError,
        pt.ProtocolError, pt.WorkerLostError, pt.UnsupportedOpError,
    ]  # fmt: skip
    del every


def mistakes(bob: pt.Worker) -> None:
    pt.VirtualWorker()  # type: ignore[call-arg]
    pt.VirtualWorker("bob")  # type: ignore[call-arg, arg-type]
    pt.ProcessWorker()  # type: ignore[call-arg]
    pt.RemoteWorker(7700)  # type: ignore[arg-type]
    bob.manual_seed("one")  # type: ignore[arg-type]
    bob.search(1)  # type: ignore[arg-type]
    bob.objects[1] = torch.ones(1)  # type: ignore[index]

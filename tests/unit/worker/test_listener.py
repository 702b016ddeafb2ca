"""A listener: where it listens, where it computes, and what it says instead of serving."""

import contextlib
import socket
import threading

import msgspec
import pytest
import torch
from wire_samples import HELLO, frame, header, raw_frame

import ptrtensor as pt
from ptrtensor.errors import PtrTensorError
from ptrtensor.wire.connection import client_connection
from ptrtensor.wire.limits import MAX_MESSAGE_BYTES, MAX_REFUSAL_CHARACTERS, PROTOCOL_VERSION
from ptrtensor.wire.messages import Hello, Refused, Synchronize, Welcome
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.listener import Gate, Refusing, check_device, serve_connection, usable_device
from ptrtensor.worker.session import Session

LITERAL = raw_frame(
    msgspec.msgpack.encode(
        {
            "type": "Batch",
            "first": 0,
            "count": 0,
            "definitions": [[1, "aten::add", [["n", "k" * (MAX_MESSAGE_BYTES - 200), "x"]], {}, False, None]],
        }
    )
)
"""A message that quotes badly."""


def test_a_usable_device() -> None:
    assert usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "lazy", "lazy:1", "no such device", "", "cuda:-2", "mps:77", "\ud800"])
def test_a_device_where_nothing_can_be_computed(name: str) -> None:
    with pytest.raises(PtrTensorError, match=r"^this worker cannot compute on .*: .+") as caught:
        usable_device(name)
    assert repr(name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_a_device_that_is_there(name: str) -> None:
    check_device(name)


@pytest.mark.parametrize("name", ["meta", "lazy", "no such device", "", "cuda:-2", "cuda:77", "mps:77", "\ud800"])
def test_a_device_that_is_not_there(name: str, virtual_worker: pt.VirtualWorker) -> None:
    with pytest.raises(PtrTensorError, match=r"^(nothing can be computed on|there is no device) .*: .+") as caught:
        check_device(name)
    assert repr(name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(PtrTensorError, match="cannot compute on 'cuda': .*(CUDA|NVIDIA)"):
        usable_device("cuda")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"x" * 100, "wrong first bytes"),
        (header(60, 0, version=PROTOCOL_VERSION + 1), f"version {PROTOCOL_VERSION + 1}"),
        (frame(HELLO), "runs torch 1.0.0"),
        (frame(Hello(PROTOCOL_VERSION, "", "9" * 4000, HELLO.token)), "runs torch 1.0.0"),
        (b"", ""),
    ],
    ids=["no protocol", "another version", "another torch", "a long name of a torch", "none at all"],
)
def test_why_a_client_is_refused_is_told_before_it_hears_of_it(said: bytes, reason: str) -> None:
    mine, theirs = socket.socketpair()
    told: list[str] = []

    def when_refused(why: str) -> None:
        mine.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            told.append(f"after {mine.recv(1)!r}")
        mine.setblocking(True)
        told.append(why)

    with mine:
        mine.sendall(said)
        mine.shutdown(socket.SHUT_WR)
        gate = Gate(Session(Identity("bob", "0.1.0", "1.0.0")), threading.RLock(), token=HELLO.token)
        serve_connection(theirs, gate, when_refused)
        connection = client_connection()
        connection.receive_data(mine.recv(65536))
    heard = [event.message.reason for event in connection.events if isinstance(event.message, Refused)]
    assert heard == told
    assert reason in told[0] if reason else not told
    assert all(len(why) <= MAX_REFUSAL_CHARACTERS for why in told)


def test_a_client_that_sends_a_long_text_is_told_the_beginning_of_it() -> None:
    """What quotes it would not fit a message, and its process would end as by a fault of its own."""
    mine, theirs = socket.socketpair()
    reasons: list[str] = []
    gate = Gate(Session(Identity("bob", "0.1.0", HELLO.torch)), threading.RLock(), token=HELLO.token)
    thread = threading.Thread(target=serve_connection, args=(theirs, gate, reasons.append), daemon=True)
    thread.start()
    with mine:
        mine.sendall(frame(HELLO) + LITERAL)
        thread.join(20)
        assert not thread.is_alive()
        connection = client_connection()
        connection.receive_data(mine.recv(65536))
    welcome, refused = (event.message for event in connection.events)
    assert isinstance(welcome, Welcome) and isinstance(refused, Refused)
    assert "kkkkk" in refused.reason and len(refused.reason) == MAX_REFUSAL_CHARACTERS
    assert reasons == [refused.reason]


def test_a_reason_that_is_no_text_is_told_all_the_same() -> None:
    mine, theirs = socket.socketpair()
    with mine:
        mine.sendall(frame(HELLO))
        serve_connection(theirs, Refusing("no \ud800"))
        connection = client_connection()
        connection.receive_data(mine.recv(65536))
    assert [event.message for event in connection.events] == [Refused("no ?")]


def test_every_message_is_refused() -> None:
    assert list(Refusing("no room").handle(Synchronize(1), memoryview(b""))) == [(Refused("no room"), None)]

"""Several threads on one session: the order of each thread's calls is kept, and each gets its own answers (D17)."""

import threading

import pytest
import torch
from at_once import together
from by_hand import At, ByHand, Field, aten
from client_transports import TRANSPORTS, WAIT_SECONDS, connected

import ptrtensor as pt
from ptrtensor._torch.memory import bytes_of, meta_of, tensor_of
from ptrtensor.client.callsite import CallSite
from ptrtensor.client.client import Client
from ptrtensor.wire import messages

THREADS = 4
ROUNDS = 60
MODULUS = 1_000_003.0
HERE = CallSite(bytes_of.__code__, 1)


def put(client: Client, number: float) -> int:
    tensor = torch.tensor(number, dtype=torch.float64)
    name = client.reserve()
    client.send(messages.Put(name, meta_of(tensor)), bytes_of(tensor))
    return name


def fetch(client: Client, name: int) -> float:
    value, payload = client.request(lambda number: messages.Fetch(number, name), messages.Value)
    assert value.meta is not None
    return float(tensor_of(value.meta, payload))


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_order_and_answers(kind: str, impatient: None) -> None:
    """Every thread multiplies, adds and reduces a number of its own, which does not commute, and reads it at times."""
    hand = ByHand()  # for its instructions only
    with connected(kind) as (client, _):
        names = [put(client, float(place)) for place in range(THREADS)]
        steps = [
            hand.define(op, At(0), Field(0.0))[0] for op in (aten.mul_.Tensor, aten.add_.Tensor, aten.remainder_.Scalar)
        ]

        def calculate(place: int) -> None:
            value = float(place)
            for turn in range(ROUNDS):
                for step, number in zip(steps, (3.0, float(turn), MODULUS), strict=True):
                    defined = (step, [names[place], number])
                    client.post(step, hand.command(defined, client.reserve())[1], HERE)
                value = (value * 3 + turn) % MODULUS
                if turn % 7 == place:
                    assert fetch(client, names[place]) == value
            assert fetch(client, names[place]) == value

        together(calculate, THREADS)
        counters, _ = client.request(messages.Statistics, messages.Counters)
        assert counters.commands == THREADS * ROUNDS * 3
        assert not client._inbox._replies and not client._inbox._awaited


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_every_request_is_answered(kind: str, impatient: None) -> None:
    with connected(kind) as (client, _):
        names = [put(client, float(place)) for place in range(THREADS)]

        def ask(place: int) -> None:
            for _ in range(ROUNDS):
                assert fetch(client, names[place]) == place

        together(ask, THREADS)
        assert client.waits.count == THREADS * ROUNDS


def test_pointers_in_several_threads(worker: pt.Worker, impatient: None) -> None:
    shared = pt.send(torch.full((3,), 2.0), worker)

    def calculate(place: int) -> None:
        mine: torch.Tensor = pt.send(torch.full((3,), float(place)), worker)
        expected = torch.full((3,), float(place))
        for turn in range(20):
            mine = mine * shared + turn
            mine.sub_(place)
            expected = (expected * 2 + turn - place).remainder(100)
            mine = mine.remainder(100)
        assert torch.equal(mine.cpu(), expected)

    together(calculate, THREADS)


def test_backward_in_several_threads(worker: pt.Worker) -> None:
    def calculate(place: int) -> None:
        weight = pt.send(torch.full((3, 3), 1.0 + place), worker).requires_grad_()
        for _ in range(3):
            weight.grad = None
            (weight @ weight).sum().backward()
        assert weight.grad is not None
        assert torch.equal(weight.grad.cpu(), torch.full((3, 3), 6.0 * (1 + place)))

    together(calculate, THREADS)


def test_looking_at_objects_while_another_thread_works(virtual_worker: pt.VirtualWorker, impatient: None) -> None:
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            pointer: torch.Tensor = pt.send(torch.ones(1), virtual_worker)
            for _ in range(10):
                pointer = pointer + 1

    thread = threading.Thread(target=churn, daemon=True)
    thread.start()
    try:
        for _ in range(300):
            assert all(isinstance(tensor, torch.Tensor) for tensor in virtual_worker.objects.values())
            virtual_worker.stats()
    finally:
        over.set()
        thread.join(WAIT_SECONDS)

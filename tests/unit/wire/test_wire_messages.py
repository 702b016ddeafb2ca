"""The closed set of messages [P4]."""

import msgspec
import pytest
from wire_samples import (
    CLIENT_TYPES,
    FROM_CLIENT,
    FROM_WORKER,
    FURTHER,
    META,
    WORKER_TYPES,
    Sample,
    content,
    types_of,
)

from ptrtensor.wire.messages import (
    PAYLOAD_OF_TENSOR,
    SEALED_PAYLOAD,
    Annotate,
    Batch,
    ClientMessage,
    Configure,
    Fetch,
    ManualSeed,
    Put,
    Settings,
    WorkerMessage,
)

from_client = msgspec.msgpack.Decoder(ClientMessage)
from_worker = msgspec.msgpack.Decoder(WorkerMessage)


def name_of(value: object) -> str:
    return type(value[0]).__name__ if isinstance(value, tuple) else ""


def test_there_is_a_sample_of_every_message() -> None:
    assert types_of(FROM_CLIENT) == CLIENT_TYPES
    assert types_of(FROM_WORKER) == WORKER_TYPES
    assert not CLIENT_TYPES & WORKER_TYPES


@pytest.mark.parametrize("sample", FROM_CLIENT, ids=name_of)
def test_a_client_message_is_the_same_after_the_wire(sample: Sample) -> None:
    message, _ = sample
    decoded = from_client.decode(msgspec.msgpack.encode(message))
    assert type(decoded) is type(message)
    assert content(decoded) == content(message)


@pytest.mark.parametrize("sample", FROM_WORKER + FURTHER, ids=name_of)
def test_a_worker_message_is_the_same_after_the_wire(sample: Sample) -> None:
    message, _ = sample
    decoded = from_worker.decode(msgspec.msgpack.encode(message))
    assert type(decoded) is type(message)
    assert content(decoded) == content(message)


@pytest.mark.parametrize("sample", FROM_CLIENT + FROM_WORKER, ids=name_of)
def test_the_other_side_does_not_take_it(sample: Sample) -> None:
    message, _ = sample
    decoder: msgspec.msgpack.Decoder[object] = from_worker if type(message) in CLIENT_TYPES else from_client
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode(message))


@pytest.mark.parametrize("sample", FROM_CLIENT + FROM_WORKER, ids=name_of)
def test_messages_cannot_be_changed(sample: Sample) -> None:
    message, _ = sample
    with pytest.raises(AttributeError):
        setattr(message, message.__struct_fields__[0], 1)


@pytest.mark.parametrize("sample", FROM_CLIENT + FROM_WORKER, ids=name_of)
def test_only_values_and_batches_have_a_payload(sample: Sample) -> None:
    message, payload = sample
    assert bool(payload) == isinstance(message, (Batch, *PAYLOAD_OF_TENSOR, *SEALED_PAYLOAD))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "Nothing"},
        {"type": "Fetch"},
        {"type": "Fetch", "request": "1", "name": 2},
        {"type": "Fetch", "request": 1.5, "name": 2},
        {"type": "Fetch", "request": True, "name": 2},
        {"type": "Annotate", "name": 1, "tags": "tag", "description": ""},
        {"type": "Annotate", "name": 1, "tags": [1], "description": ""},
        {"type": "Put", "name": 1, "meta": [[2], [1]]},
        {"type": "Put", "name": 1, "meta": [[2], [1.0], "int8"]},
        {"type": "Batch", "first": 0, "count": 0, "definitions": [[1, "aten::x", [["q"]], {}, False, None]]},
        {"type": "Batch", "first": 0, "count": 0, "definitions": [[1, "aten::x", [["l", [["l", []]]]], {}, False, []]]},
        {
            "type": "Batch",
            "first": 0,
            "count": 0,
            "definitions": [[1, "aten::x", [["n", "class", "x"]], {}, False, []]],
        },
        {"type": "Configure", "settings": ["float32", 1]},
        {"type": "ManualSeed", "seed": "1"},
        [],
        None,
        1,
        "Fetch",
    ],
    ids=str,
)
def test_anything_else_is_none_of_the_messages(message: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        from_client.decode(msgspec.msgpack.encode(message))


@pytest.mark.parametrize("sample", [s for s in FROM_CLIENT if hasattr(s[0], "name")], ids=name_of)
def test_names_below_zero_are_the_worker_s_own(sample: Sample) -> None:
    """Published tensors are kept under them."""
    message, _ = sample
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int` >= 0 - at `\$.name`"):
        from_client.decode(msgspec.msgpack.encode(msgspec.structs.replace(message, name=-1)))


def test_an_unknown_field_is_passed_over() -> None:
    body = msgspec.msgpack.encode({"type": "Fetch", "request": 1, "name": 2, "later": [[[]]]})
    assert from_client.decode(body) == Fetch(1, 2)


def test_a_message_holds_plain_values() -> None:
    body = msgspec.msgpack.encode(Annotate(1, ("a",), "b"))
    assert msgspec.msgpack.decode(body) == {"type": "Annotate", "name": 1, "tags": ["a"], "description": "b"}
    body = msgspec.msgpack.encode(Put(1, META))
    assert msgspec.msgpack.decode(body) == {
        "type": "Put",
        "name": 1,
        "meta": [[2, 3], [3, 1], "float32", False, False],
        "host": False,
    }
    body = msgspec.msgpack.encode(Configure(Settings()))
    assert msgspec.msgpack.decode(body)["settings"][0] == "float32"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ManualSeed(None))) == {"type": "ManualSeed", "seed": None}

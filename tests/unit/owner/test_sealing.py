"""Letters and boxes: who can open what, and who vouches for it [P13]."""

import itertools
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ptrtensor.errors import IdentityError, PermissionDeniedError, PtrTensorError
from ptrtensor.owner import keys
from ptrtensor.owner.sealing import MAX_LETTERS, NONCE, Box, Content, Letter, Sealer, Signed, decoded, raw, shared
from ptrtensor.transport.tls import Credentials
from ptrtensor.wire.metadata import TensorMeta

CONTENT = Content(("patients",), TensorMeta((2,), (1,), "float32"), bytes(range(8)), "")
SENDERS = ("bob", "dora", "eve")
NONE = Content(("patients",), None, b"", "it failed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """bob and dora trust each other; eve trusts both, and nobody her."""
    for name in ("bob", "dora", "eve"):
        keys.new_identity(name, tmp_path)
    for who, whom in (("bob", "dora"), ("dora", "bob"), ("eve", "bob"), ("eve", "dora")):
        keys.trust(tmp_path / whom / f"{whom}.pem", tmp_path / f"{who} trusts")
    return tmp_path


def sealer(folder: Path, name: str) -> Sealer:
    return Sealer(Credentials(folder / name, folder / f"{name} trusts"))


def test_what_is_sealed_for_a_letter_is_opened_once(folder: Path) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    letter = dora.letter("session")
    assert bob.addressee(letter) == "dora"
    box = bob.seal(letter, CONTENT, 1000)
    sender, opened = dora.open(box, "session", SENDERS)
    assert sender == "bob" and opened.labels == CONTENT.labels and opened.value == CONTENT.value
    assert opened.meta is not None and CONTENT.meta is not None and opened.meta.same_as(CONTENT.meta)
    with pytest.raises(PermissionDeniedError, match="not known here"):
        dora.open(box, "session", SENDERS)
    with pytest.raises(PermissionDeniedError, match="not known here"):
        dora.open(bob.seal(letter, CONTENT, 1000), "session", SENDERS)


def test_a_box_is_as_large_with_a_value_as_without(folder: Path) -> None:
    bob, letter = sealer(folder, "bob"), sealer(folder, "dora").letter("session")
    assert len(bob.seal(letter, CONTENT, 1000)) == len(bob.seal(letter, NONE, 1000))


@pytest.mark.parametrize("plain", [b"", b"\xff" * 7, b"\xff" * 8, bytes(8), bytes(100)])
def test_what_a_trusted_side_seals_may_be_nothing(folder: Path, plain: bytes) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    written = decoded(decoded(dora.letter("session"), Signed).body, Letter)
    key = X25519PrivateKey.generate()
    sealed = ChaCha20Poly1305(shared(key, written.key, written.number)).encrypt(NONCE, plain, None)
    box = bob._sign(b"box", msgspec.msgpack.encode(Box(written.number, raw(key.public_key()), sealed)))
    with pytest.raises(PermissionDeniedError, match="none of the protocol's"):
        dora.open(box, "session", SENDERS)


def test_it_is_for_one_session_and_for_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    box = bob.seal(dora.letter("hers"), CONTENT, 0)
    with pytest.raises(PermissionDeniedError, match="not known here"):
        dora.open(box, "another's", SENDERS)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    with pytest.raises(PermissionDeniedError, match="not any more"):
        dora.open(box, "hers", SENDERS)


def test_what_is_wrong_with_the_owners_files_is_not_for_clients(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bob, letter = sealer(folder, "bob"), sealer(folder, "dora").letter("session")
    (folder / "bob trusts" / "odd.pem").write_text("nothing")
    with pytest.raises(PtrTensorError, match="^the worker's identity cannot be used at the moment; its owner's log"):
        bob.addressee(letter)
    (folder / "bob" / "bob.key").chmod(0o644)
    with pytest.raises(PtrTensorError, match="^the worker's identity cannot be used at the moment"):
        bob.letter("session")
    assert "odd.pem" in str([record.__dict__ for record in caplog.records])


def test_letters_do_not_pile_up(folder: Path) -> None:
    dora = sealer(folder, "dora")
    for _ in range(1200):
        dora.letter("session")
    assert len(dora._letters) == 1000


def test_nobody_else_opens_it(folder: Path) -> None:
    bob, dora, eve = (sealer(folder, name) for name in ("bob", "dora", "eve"))
    box = bob.seal(dora.letter("session"), CONTENT, 0)
    eve.letter("session")
    with pytest.raises(PermissionDeniedError):
        eve.open(box, "session", SENDERS)
    with pytest.raises(IdentityError, match="does not trust"):
        bob.addressee(eve.letter("session"))
    with pytest.raises(IdentityError, match="does not trust"):
        dora.open(eve.seal(dora.letter("session"), CONTENT, 0), "session", SENDERS)


def test_a_box_of_somebody_who_is_not_named_is_not_opened(folder: Path) -> None:
    """Whoever is trusted as a client is not for that a worker whose values are taken."""
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    box = bob.seal(dora.letter("session"), CONTENT, 0)
    with pytest.raises(PermissionDeniedError, match="what bob sealed is not opened: receive_from in the policy"):
        dora.open(box, "session", ("eve",))
    assert dora.open(box, "session", SENDERS)[0] == "bob", "the letter is as good as before"


@pytest.mark.parametrize(
    ("labels", "is_taken"),
    [
        (("x" * 500,), True),
        (("x" * 501,), False),
        (tuple(map(str, range(1000))), True),
        (tuple(map(str, range(1001))), False),
    ],
    ids=["long", "too long", "many", "too many"],
)
def test_labels_are_bounded(folder: Path, labels: tuple[str, ...], is_taken: bool) -> None:
    """They are another owner's, and stand in the log of whoever receives them."""
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    box = bob.seal(dora.letter("session"), Content(labels, None, b"", "x"), 0)
    if is_taken:
        assert dora.open(box, "session", SENDERS)[1].labels == labels
    else:
        with pytest.raises(PermissionDeniedError, match=r"none of the protocol's: Expected .* of length <= "):
            dora.open(box, "session", SENDERS)


def memory_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_that_it_takes_to_seal_and_to_open(folder: Path) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    size, letter, boxes = 8 * 2**20, dora.letter("session"), list[bytes]()
    content = Content(("x",), None, bytes(size), "")
    assert memory_of(lambda: boxes.append(bob.seal(letter, content, size + 1000))) < 3.2 * size
    assert memory_of(lambda: dora.open(boxes[0], "session", SENDERS)) < 1.2 * size
    with pytest.raises(PermissionDeniedError):
        memory_of(lambda: dora.open(boxes[0], "session", SENDERS))


def test_what_nobody_may_have_sealed_is_not_even_copied(folder: Path) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    box = bob.seal(dora.letter("session"), Content(("x",), None, bytes(2**20), ""), 0)

    def refused() -> None:
        with pytest.raises(PermissionDeniedError):
            dora.open(box, "session", ("eve",))

    assert memory_of(refused) < 2**19


@pytest.mark.parametrize("part", ["body", "certificate", "signature"])
@pytest.mark.parametrize("what", ["letter", "box"])
def test_what_was_altered_does_not_count(folder: Path, what: str, part: str) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    letter = dora.letter("session")
    data = letter if what == "letter" else bob.seal(letter, CONTENT, 100)
    signed = msgspec.msgpack.decode(data, type=Signed)
    before = bytes(getattr(signed, part))
    for place in itertools.islice(range(0, len(before)), 0, None, 7):
        after = before[:place] + bytes([before[place] ^ 4]) + before[place + 1 :]
        altered = msgspec.msgpack.encode(msgspec.structs.replace(signed, **{part: after}))
        with pytest.raises(PtrTensorError):
            bob.addressee(altered) if what == "letter" else dora.open(altered, "session", SENDERS)


def test_a_letter_is_no_box(folder: Path) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    letter = dora.letter("session")
    with pytest.raises(IdentityError):
        bob.open(letter, "session", SENDERS)
    with pytest.raises(IdentityError):
        dora.addressee(bob.seal(letter, CONTENT, 0))


def test_the_box_of_one_letter_is_none_of_another(folder: Path) -> None:
    """Signed anew by somebody who is trusted: the number belongs to the key."""
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    first, second = dora.letter("session"), dora.letter("session")
    box, other = (
        msgspec.msgpack.decode(msgspec.msgpack.decode(bob.seal(letter, CONTENT, 0), type=Signed).body, type=Box)
        for letter in (first, second)
    )
    mixed = bob._sign(b"box", msgspec.msgpack.encode(Box(other.number, box.key, box.sealed)))
    with pytest.raises(PermissionDeniedError, match="altered"):
        dora.open(mixed, "session", SENDERS)


@pytest.mark.parametrize("data", [b"", b"x", bytes(1000), msgspec.msgpack.encode(Signed(b"", b"", b""))])
def test_what_is_none_of_the_protocols(folder: Path, data: bytes) -> None:
    bob = sealer(folder, "bob")
    with pytest.raises(PtrTensorError):
        bob.open(data, "session", SENDERS)
    with pytest.raises(PtrTensorError):
        bob.addressee(data)


def test_an_authority_vouches_and_an_expired_certificate_does_not(tmp_path: Path) -> None:
    keys.new_identity("clinic", tmp_path, is_authority=True)
    for name in ("bob", "dora"):
        keys.new_identity(name, tmp_path, authority=tmp_path / "clinic")
        keys.trust(tmp_path / "clinic" / "clinic.pem", tmp_path / f"{name} trusts", authority=True)
    bob, dora = sealer(tmp_path, "bob"), sealer(tmp_path, "dora")
    assert dora.open(bob.seal(dora.letter("session"), CONTENT, 0), "session", SENDERS)[0] == "bob"
    keys.new_identity("old", tmp_path, days=0)
    shutil.copy(tmp_path / "old" / "old.pem", tmp_path / "bob trusts")
    keys.trust(tmp_path / "clinic" / "clinic.pem", tmp_path / "old trusts", authority=True)
    with pytest.raises(IdentityError, match="does not trust"):
        bob.addressee(sealer(tmp_path, "old").letter("session"))


def test_who_asks_for_many_letters_makes_only_its_own_worthless(folder: Path) -> None:
    bob, dora = sealer(folder, "bob"), sealer(folder, "dora")
    theirs, first = dora.letter("another session"), dora.letter("session")
    for _ in range(MAX_LETTERS):
        dora.letter("session")
    assert dora.open(bob.seal(theirs, CONTENT, 1000), "another session", SENDERS)[0] == "bob"
    with pytest.raises(PermissionDeniedError, match="not known here"):
        dora.open(bob.seal(first, CONTENT, 1000), "session", SENDERS)

"""Private values that move from one owner's worker to another's by way of a client who cannot read them [P13].

The one who is to receive makes a key for this once and signs it (a letter). The one who sends encrypts for that key and
signs the whole (a box). X25519, HKDF with SHA-256, ChaCha20-Poly1305 (RFC 7748, 5869, 8439); signed by the
identities' keys, Ed25519 (RFC 8032).
"""

import datetime
import logging
import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Annotated, Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ptrtensor.errors import IdentityError, PermissionDeniedError, PtrTensorError
from ptrtensor.owner.keys import is_authority, name_of, private_key, read_certificate
from ptrtensor.transport.tls import Credentials, certificates_of
from ptrtensor.wire.control import Bytes
from ptrtensor.wire.limits import MAX_LABEL_CHARACTERS, MAX_LABELS
from ptrtensor.wire.metadata import TensorMeta

log: Final = logging.getLogger("ptrtensor.serve")

MAX_LETTERS: Final = 1000
"""Of one session: a new one takes the place of its oldest, and of nobody else's."""

LETTER_SECONDS: Final = 600.0
"""How long a letter is good for."""

LENGTH: Final = struct.Struct("<Q")
T = TypeVar("T")

Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_CHARACTERS)]
Labels = Annotated[tuple[Label, ...], msgspec.Meta(max_length=MAX_LABELS)]

NONCE: Final = bytes(12)
"""The same each time, since each key is used once."""


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """What an identity says, and its proof."""

    body: Bytes
    certificate: bytes
    signature: bytes


class Letter(msgspec.Struct, frozen=True, array_like=True):
    number: bytes
    key: bytes


class Box(msgspec.Struct, frozen=True, array_like=True):
    number: bytes
    key: bytes
    sealed: Bytes


class Content(msgspec.Struct, frozen=True, array_like=True):
    """A value with its labels, or why there is none."""

    labels: Labels
    meta: TensorMeta | None
    value: Bytes
    failure: str


class Sealer:
    """One server's letters and boxes."""

    def __init__(self, credentials: Credentials) -> None:
        self.name = name_of(read_certificate(credentials.certificate))
        self._credentials = credentials
        self._letters: OrderedDict[bytes, tuple[X25519PrivateKey, str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def letter(self, session: str) -> bytes:
        """Whoever has it can seal one value for this session."""
        key, number = X25519PrivateKey.generate(), os.urandom(16)
        with self._lock:
            now = time.monotonic()
            while self._letters and next(iter(self._letters.values()))[2] < now:
                self._letters.popitem(last=False)
            theirs = [written for written, (_, writer, _) in self._letters.items() if writer == session]
            if len(theirs) >= MAX_LETTERS:
                del self._letters[theirs[0]]
            self._letters[number] = (key, session, now + LETTER_SECONDS)
        return self._sign(b"letter", msgspec.msgpack.encode(Letter(number, raw(key.public_key()))))

    def addressee(self, letter: bytes) -> str:
        """Who wrote the letter.

        :raises IdentityError: nobody whom this side trusts.
        """
        return self._read(b"letter", letter)[0]

    def seal(self, letter: bytes, content: Content, size: int) -> bytes:
        """A box that only the writer of the letter can open; so large as `size` says, whatever is in it."""
        _, body = self._read(b"letter", letter)
        written = decoded(body, Letter)
        key = X25519PrivateKey.generate()
        secret, public = shared(key, written.key, written.number), raw(key.public_key())

        def sealed() -> bytes:  # in one go: what may be large is let go as soon as the next form of it is there
            return ChaCha20Poly1305(secret).encrypt(NONCE, padded(content, size), None)

        return self._sign(b"box", msgspec.msgpack.encode(Box(written.number, public, sealed())))

    def open(self, box: Bytes, session: str, senders: Collection[str]) -> tuple[str, Content]:
        """Who sealed it, and what is in it. A letter serves once.

        :raises PtrTensorError: none of these sealed it, not for a letter of this session, or it was altered.
        """
        sender, body = self._read(b"box", box, senders)
        found = decoded(body, Box)
        with self._lock:
            key, owner, until = self._letters.get(found.number, (None, "", 0.0))
            if key is None or owner != session or time.monotonic() > until:
                raise PermissionDeniedError("this was sealed for a letter that is not known here, or not any more")
            del self._letters[found.number]
        try:
            plain = ChaCha20Poly1305(shared(key, found.key, found.number)).decrypt(NONCE, found.sealed, None)
        except InvalidTag as error:
            raise PermissionDeniedError("what was sealed cannot be opened: it was altered") from error
        length = int.from_bytes(plain[: LENGTH.size], "little")
        return sender, decoded(memoryview(plain)[LENGTH.size : LENGTH.size + length], Content)

    def _sign(self, what: bytes, body: bytes) -> bytes:
        with own_files():
            certificate = certificates_of(self._credentials.certificate)[0]
            key = private_key(self._credentials.key)
        signature = key.sign(what + b"\0" + body)
        return msgspec.msgpack.encode(Signed(body, certificate, signature))

    def _read(self, what: bytes, data: Bytes, senders: Collection[str] | None = None) -> tuple[str, Bytes]:
        """Who signed it, and what it is. It is looked at as a whole only if it may be of whom it says.

        :raises IdentityError: nobody whom this side trusts.
        :raises PermissionDeniedError: none of the senders.
        """
        signed = decoded(data, Signed)
        certificate = trusted(signed.certificate, self._credentials)
        name = name_of(certificate)
        if senders is not None and name not in senders:
            raise PermissionDeniedError(
                f"what {name} sealed is not opened: receive_from in the policy of the worker's owner does not name it"
            )
        key = certificate.public_key()
        try:
            if not isinstance(key, Ed25519PublicKey):
                raise InvalidSignature
            key.verify(signed.signature, b"\0".join((what, signed.body)))
        except InvalidSignature as error:
            raise IdentityError("what was sealed is not signed by whom it says") from error
        return name, signed.body


def trusted(der: bytes, credentials: Credentials) -> x509.Certificate:
    """The certificate, if it counts [P10.2].

    :raises IdentityError: it does not.
    """
    with own_files():
        known = [(certificates_of(file), read_certificate(file)) for file in credentials.trusted]
    try:
        certificate = x509.load_der_x509_certificate(der)
        now = datetime.datetime.now(datetime.UTC)
        if certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            for certificates, first in known:
                if der in certificates or is_issued_by(certificate, first):
                    return certificate
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"what was sealed comes with no certificate: {error}") from error
    raise IdentityError("what was sealed is of somebody whom this worker does not trust")


@contextmanager
def own_files() -> Iterator[None]:
    """What is wrong with the owner's files is for the owner to know, and so is where they lie.

    :raises PtrTensorError: in their place.
    """
    try:
        yield
    except (IdentityError, OSError) as error:
        log.error("the identity or who is trusted cannot be read", extra={"reason": str(error)})
        raise PtrTensorError("the worker's identity cannot be used at the moment; its owner's log says why") from error


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    if not is_authority(authority):
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def shared(key: X25519PrivateKey, other: bytes, number: bytes) -> bytes:
    """The secret that both ends can compute, and nobody else.

    :raises PermissionDeniedError: the other key is none.
    """
    try:
        secret = key.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise PermissionDeniedError("what was sealed comes with a key that is none") from error
    return HKDF(hashes.SHA256(), 32, number, b"ptrtensor sealed value").derive(secret)


def padded(content: Content, size: int) -> bytearray:
    """Its length, itself, and zeros up to that size."""
    data = bytearray(LENGTH.size)
    msgspec.msgpack.Encoder().encode_into(content, data, LENGTH.size)
    length = len(data) - LENGTH.size
    LENGTH.pack_into(data, 0, length)
    data.extend(bytes(max(0, size - length)))
    return data


def raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def decoded(data: Bytes, kind: type[T]) -> T:
    """:raises PermissionDeniedError: it is none."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise PermissionDeniedError(f"what was sealed is none of the protocol's: {error}") from error

"""Mutual TLS 1.3: who this side is, whom it trusts, and who the other side turned out to be [P10]."""

import hashlib
import os
import re
import shlex
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ptrtensor.errors import IdentityError

CERTIFICATE_SUFFIX: Final = ".pem"
KEY_SUFFIX: Final = ".key"
CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Credentials:
    """Where an identity's files are, and the directory with the certificates that it trusts.

    They are read anew for each connection, so whoever is added or taken away counts from the next one on.
    """

    identity: Path
    trust: Path

    @property
    def key(self) -> Path:
        """:raises IdentityError: the directory is no identity, or others can read its key."""
        try:
            keys = sorted(self.identity.glob(f"*{KEY_SUFFIX}"))
        except OSError as error:
            raise IdentityError(f"the identity {self.identity} cannot be read: {error}") from error
        if len(keys) != 1:
            raise IdentityError(
                f"{self.identity} is no identity: it has {len(keys)} files *{KEY_SUFFIX} instead of one. "
                "Make an identity with: ptrtensor keys new NAME"
            )
        check_private(keys[0])
        return keys[0]

    @property
    def certificate(self) -> Path:
        return self.key.with_suffix(CERTIFICATE_SUFFIX)

    @property
    def trusted(self) -> list[Path]:
        """:raises IdentityError: nobody is trusted."""
        files = sorted(self.trust.glob(f"*{CERTIFICATE_SUFFIX}"))
        if not files:
            raise IdentityError(
                f"{self.trust} has no certificate (*{CERTIFICATE_SUFFIX}), so nobody is trusted. "
                f"Add one with: ptrtensor keys trust FILE --trust {self.trust}"
            )
        return files


def check_private(key: Path) -> None:
    """As ssh has it: this user's own key is nobody else's to read. Another user's was given to be read.

    :raises IdentityError: it is.
    """
    if os.name != "posix":
        return
    try:
        found = key.stat()
    except OSError as error:
        raise IdentityError(f"the key {key} cannot be read: {error.strerror}") from error
    if found.st_uid == os.getuid() and found.st_mode & 0o077:
        raise IdentityError(
            f"the key {key} can be read by others than its owner (mode {found.st_mode & 0o777:04o}). "
            f"If nobody has read it, protect it: chmod 600 {shlex.quote(str(key))}. Else make another identity"
        )


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as its certificate says. `pinned`: that very certificate is trusted, rather than one
    that an authority signed.
    """

    name: str
    fingerprint: str
    pinned: bool


def context(credentials: Credentials, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with a certificate asked of both sides.

    :raises IdentityError: a file is missing, or is no certificate or key.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # names are of certificates here, not of hosts [P10.3]
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate can be trusted without its authority
    if server:
        made.num_tickets = 0  # each connection shows its certificate
    key, certificate = credentials.key, credentials.certificate
    try:
        made.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise IdentityError(f"the identity {credentials.identity} cannot be used: {certificate}, {key}: {error}") from (
            error
        )
    trusted = credentials.trusted
    for file in [*trusted, certificate] if server else trusted:  # its own is its owner, who asks how it is [P10.6]
        try:
            made.load_verify_locations(file)
        except (OSError, ValueError) as error:
            raise IdentityError(f"{file} in the directory of trusted certificates is none: {error}") from error
    return made


def peer_of(sock: ssl.SSLSocket, credentials: Credentials) -> Peer:
    """Who is at the other end.

    :raises IdentityError: its certificate gives no name.
    """
    certificate = sock.getpeercert(binary_form=True)
    if certificate is None:
        raise IdentityError("the other side showed no certificate")
    name = common_name(sock)
    pinned = any(certificate in certificates_of(file) for file in credentials.trusted)
    return Peer(name, fingerprint_of(certificate), pinned)


def common_name(sock: ssl.SSLSocket) -> str:
    shown: Any = sock.getpeercert() or {}  # the stubs allow texts where a subject has none
    names = [str(value) for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"]
    if len(names) != 1:
        raise IdentityError(f"the other side's certificate has {len(names)} names instead of one")
    return names[0]


def certificates_of(file: Path) -> list[bytes]:
    """Those of a PEM file, in DER; other text may stand around them."""
    return [ssl.PEM_cert_to_DER_cert(found) for found in CERTIFICATE.findall(file.read_text(errors="replace"))]


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate).hexdigest()

"""Identities: a certificate to show and a key to keep. Two parties need no authority; many may have one."""

import contextlib
import datetime
import os
import re
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ptrtensor.errors import IdentityError
from ptrtensor.transport.tls import CERTIFICATE_SUFFIX, KEY_SUFFIX, Credentials, fingerprint_of

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CLOCK_SKEW: Final = datetime.timedelta(minutes=5)


def new_identity(
    name: str, parent: Path, *, days: int = 730, authority: Path | None = None, is_authority: bool = False
) -> Path:
    """Make `parent/name/` with `name.pem`, the certificate to hand out, and `name.key`, which stays there.

    :param authority: the identity of an authority that signs it; else it signs itself.
    :param is_authority: whether it may sign for others.
    :raises IdentityError: the name cannot be one, the directory is there already, or that authority is none.
    """
    if not NAME.fullmatch(name):
        raise IdentityError(
            f"{name!r} cannot be a name: letters, digits, '.', '_' and '-', 64 at most, the first a letter or digit"
        )
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signing_key = (subject, key) if authority is None else authority_of(authority)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(key_usage(is_authority=is_authority), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .sign(signing_key, None)
    )
    directory = parent / name
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise IdentityError(f"{directory} is there already; an identity is never overwritten") from None
    write_privately(
        directory / f"{name}{KEY_SUFFIX}",
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    (directory / f"{name}{CERTIFICATE_SUFFIX}").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return directory


def key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def authority_of(identity: Path) -> tuple[x509.Name, Ed25519PrivateKey]:
    """The name and key of an authority."""
    files = Credentials(identity, identity)
    certificate = read_certificate(files.certificate)
    if not is_authority(certificate):
        raise IdentityError(f"{identity} is no authority; make one with: ptrtensor keys new NAME --authority")
    key = private_key(files.key)
    if key.public_key() != certificate.public_key():
        raise IdentityError(f"{files.key} is not the key of {files.certificate}")
    return certificate.subject, key


def private_key(file: Path) -> Ed25519PrivateKey:
    """:raises IdentityError: it cannot be read, or is none."""
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as error:
        raise IdentityError(f"the key {file} cannot be used: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{file} is no key that ptrtensor made")
    return key


def trust(file: Path, directory: Path, *, authority: bool = False) -> Path:
    """Put a certificate on the list of those that may connect, or whom this side connects to.

    :param authority: the certificate may be an authority's, and everybody it signs for is trusted then.
    :raises IdentityError: the file is no certificate, or an authority's without `authority`, or the name is taken.
    """
    certificate = read_certificate(file)
    name = name_of(certificate)
    check_not_expired(certificate, file)
    if is_authority(certificate) and not authority:
        raise IdentityError(
            f"{file} is the certificate of an authority: whoever trusts it trusts all that it signs. If you mean "
            "that, add --authority"
        )
    if is_signed_by_itself(certificate):
        try:
            certificate.verify_directly_issued_by(certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise IdentityError(f"{file} is not signed by its own key: it was altered") from error
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = directory / f"{name}{CERTIFICATE_SUFFIX}"
    if target.exists() and read_certificate(target) != certificate:
        raise IdentityError(
            f"another certificate of {name!r} is trusted already ({fingerprint(read_certificate(target))}): "
            f"remove {target} first, if this one takes its place"
        )
    target.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return target


def check_not_expired(certificate: x509.Certificate, file: Path) -> None:
    """:raises IdentityError: nobody accepts it any more."""
    until = certificate.not_valid_after_utc
    if until < datetime.datetime.now(datetime.UTC):
        raise IdentityError(
            f"the certificate {file} expired on {until:%Y-%m-%d}: its owner makes another identity, with: "
            "ptrtensor keys new NAME"
        )


def read_certificate(file: Path) -> x509.Certificate:
    """:raises IdentityError: it cannot be read, or is none."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        # Parsed only when they are asked for.
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.not_valid_after_utc
        certificate.public_key()
        return certificate
    except OSError as error:
        raise IdentityError(f"the certificate {file} cannot be read: {error.strerror}") from error
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{file} is no certificate (NAME.pem of an identity is one)") from error


def name_of(certificate: x509.Certificate) -> str:
    """:raises IdentityError: it has no name, or one that cannot be a file's."""
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not NAME.fullmatch(names[0]):
        raise IdentityError(f"the certificate names {names}, where one name of letters, digits, '.', '_', '-' belongs")
    return names[0]


def is_authority(certificate: x509.Certificate) -> bool:
    with contextlib.suppress(x509.ExtensionNotFound):
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return False


def is_signed_by_itself(certificate: x509.Certificate) -> bool:
    """Whether it says so, by its names or by the key that it is said to be signed with."""
    own = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    with contextlib.suppress(x509.ExtensionNotFound):
        signing = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        if signing == own:
            return True
    return certificate.issuer == certificate.subject


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, to be compared over the telephone."""
    return fingerprint_of(certificate.public_bytes(serialization.Encoding.DER))


def write_privately(file: Path, data: bytes) -> None:
    """A new file that only its owner may read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(data)

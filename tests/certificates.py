"""Identities that `ptrtensor keys new` would not make: not valid now, without a name, signed by whom it must not be."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def issuer_of(identity: Path) -> tuple[x509.Name, Ed25519PrivateKey]:
    """The name and key of any identity, an authority's or not."""
    certificate = x509.load_pem_x509_certificate((identity / f"{identity.name}.pem").read_bytes())
    key = serialization.load_pem_private_key((identity / f"{identity.name}.key").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return certificate.subject, key


def odd_identity(
    directory: Path,
    *,
    names: tuple[str, ...] | None = None,
    begins: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
    issuer: Path | None = None,
) -> Path:
    """An identity in `directory`, whose name its certificate has unless `names` says otherwise.

    It is valid from `begins` to `ends`, counted from now, and signed with the key of `issuer`, or with its own.
    """
    name = directory.name
    key = Ed25519PrivateKey.generate()
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, shown) for shown in ((name,) if names is None else names)]
        + [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "somebody")]
    )
    issuer_name, signing_key = (subject, key) if issuer is None else issuer_of(issuer)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .sign(signing_key, None)
    )
    directory.mkdir(parents=True)
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / f"{name}.key").chmod(0o600)
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return directory


def trusting(directory: Path, *identities: Path) -> Path:
    """A directory of trusted certificates with those of these identities, whatever they are."""
    directory.mkdir(parents=True)
    for identity in identities:
        (directory / f"{identity.name}.pem").write_bytes((identity / f"{identity.name}.pem").read_bytes())
    return directory

"""Identities: what is made, that it is never overwritten, and whose certificate is not put on the list."""

import ssl
import stat
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import DAY, odd_identity
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from ptrtensor.errors import IdentityError
from ptrtensor.owner import keys
from ptrtensor.transport.tls import certificates_of, fingerprint_of


def der_of(file: Path) -> bytes:
    (certificate,) = certificates_of(file)
    return certificate


def certificate_of(identity: Path) -> x509.Certificate:
    return keys.read_certificate(identity / f"{identity.name}.pem")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def extension_names(certificate: x509.Certificate) -> dict[str, bool]:
    """Which there are, and which of them nobody may overlook."""
    return {type(extension.value).__name__: extension.critical for extension in certificate.extensions}


# --- new identities


def test_nobody_is_trusted_whose_certificate_expired(tmp_path: Path) -> None:
    odd = odd_identity(tmp_path / "odd", begins=-2 * DAY, ends=-DAY)
    with pytest.raises(IdentityError, match=r"odd\.pem expired on \d{4}-\d\d-\d\d: its owner makes another identity"):
        keys.trust(odd / "odd.pem", tmp_path / "trusted")
    assert not (tmp_path / "trusted").exists()


def test_an_identity_is_a_certificate_and_a_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    made = keys.new_identity("bob", tmp_path / "identities")
    assert made == tmp_path / "identities" / "bob"
    assert sorted(file.name for file in made.iterdir()) == ["bob.key", "bob.pem"]
    assert mode(made) == 0o700
    assert mode(made / "bob.key") == 0o600
    assert b"PRIVATE" not in (made / "bob.pem").read_bytes()


def test_the_key_is_the_certificate_s(tmp_path: Path) -> None:
    made = keys.new_identity("bob", tmp_path)
    key = serialization.load_pem_private_key((made / "bob.key").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    assert certificate_of(made).public_key() == key.public_key()
    other = keys.new_identity("other", tmp_path)
    assert certificate_of(other).public_key() != key.public_key()
    assert certificate_of(other).serial_number != certificate_of(made).serial_number


def test_it_signs_itself_and_nobody_else(tmp_path: Path) -> None:
    certificate = certificate_of(keys.new_identity("bob", tmp_path))
    certificate.verify_directly_issued_by(certificate)
    assert keys.name_of(certificate) == "bob"
    assert not keys.is_authority(certificate)
    assert extension_names(certificate)["BasicConstraints"] and extension_names(certificate)["KeyUsage"]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and not usage.key_cert_sign


@pytest.mark.parametrize("days", [1, 730, 36500])
def test_it_is_valid_for_so_many_days_on_clocks_that_differ(tmp_path: Path, days: int) -> None:
    certificate = certificate_of(keys.new_identity("bob", tmp_path, days=days))
    now = datetime.now(UTC)
    assert now - timedelta(minutes=10) < certificate.not_valid_before_utc < now - timedelta(minutes=4)
    assert abs(certificate.not_valid_after_utc - now - timedelta(days=days)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "name", ["b", "Bob", "bob-2", "bob_2", "st.mary", "2nd", "a" * 64, "bob.pem", "bob.key", "a.."]
)
def test_what_can_be_a_name(tmp_path: Path, name: str) -> None:
    made = keys.new_identity(name, tmp_path)
    assert keys.name_of(certificate_of(made)) == name
    assert keys.trust(made / f"{name}.pem", tmp_path / "trusted").name == f"{name}.pem"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../bob", "a/b", "/bob", ".bob", "-bob", "_bob", "a b", "bob\n", "b\0b", "bób", "٣", "a" * 65, "*"],
)
def test_what_cannot_be_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(IdentityError, match="cannot be a name: letters, digits"):
        keys.new_identity(name, tmp_path / "identities")
    assert not (tmp_path / "identities").exists()


def test_an_identity_is_never_overwritten(tmp_path: Path) -> None:
    made = keys.new_identity("bob", tmp_path)
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    with pytest.raises(IdentityError, match="is there already; an identity is never overwritten"):
        keys.new_identity("bob", tmp_path)
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before


def test_a_directory_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bob").mkdir()
    with pytest.raises(IdentityError, match="is there already"):
        keys.new_identity("bob", tmp_path)
    assert not list((tmp_path / "bob").iterdir())


def test_a_private_file_is_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("mine")
    with pytest.raises(FileExistsError):
        keys.write_privately(file, b"yours")
    assert file.read_text() == "mine"


# --- authorities


def test_an_authority_signs_for_others(tmp_path: Path) -> None:
    clinic = keys.new_identity("clinic", tmp_path, is_authority=True)
    bob = keys.new_identity("bob", tmp_path, authority=clinic)
    assert keys.is_authority(certificate_of(clinic)) and not keys.is_authority(certificate_of(bob))
    certificate_of(bob).verify_directly_issued_by(certificate_of(clinic))
    assert certificate_of(bob).issuer == certificate_of(clinic).subject
    constraints = certificate_of(clinic).extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.path_length == 0
    usage = certificate_of(clinic).extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and not usage.digital_signature


def test_only_an_authority_signs(tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path)
    with pytest.raises(IdentityError, match="is no authority; make one with: ptrtensor keys new NAME --authority"):
        keys.new_identity("alice", tmp_path, authority=bob)
    assert not (tmp_path / "alice").exists()


@pytest.mark.parametrize("what", ["absent", "empty", "no certificate", "a certificate that is none"])
def test_an_authority_is_an_identity(tmp_path: Path, what: str) -> None:
    clinic = tmp_path / "clinic"
    if what == "empty":
        clinic.mkdir()
    elif what != "absent":
        keys.new_identity("clinic", tmp_path, is_authority=True)
        (clinic / "clinic.pem").unlink()
        if what == "a certificate that is none":
            (clinic / "clinic.pem").write_text("none")
    with pytest.raises(IdentityError):
        keys.new_identity("bob", tmp_path, authority=clinic)
    assert not (tmp_path / "bob").exists()


def encoded(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        encoded(Ed25519PrivateKey.generate(), b"secret"),
        encoded(generate_private_key(SECP256R1())),
        encoded(Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "text", "cut", "with a password", "of another kind", "of another certificate"],
)
def test_an_authority_whose_key_cannot_sign_for_it(tmp_path: Path, content: bytes) -> None:
    clinic = keys.new_identity("clinic", tmp_path, is_authority=True)
    (clinic / "clinic.key").write_bytes(content)
    with pytest.raises(IdentityError, match="clinic"):
        keys.new_identity("bob", tmp_path, authority=clinic)
    assert not (tmp_path / "bob").exists()


# --- whom to trust


def test_a_certificate_is_put_on_the_list_under_its_name(tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path)
    file = tmp_path / "from-the-mail.txt"
    file.write_bytes((bob / "bob.pem").read_bytes())
    added = keys.trust(file, tmp_path / "lists" / "trusted")
    assert added == tmp_path / "lists" / "trusted" / "bob.pem"
    assert der_of(added) == der_of(bob / "bob.pem")
    assert mode(added.parent) == 0o700


def test_nothing_but_the_certificate_is_put_on_the_list(tmp_path: Path) -> None:
    bob, carol = keys.new_identity("bob", tmp_path), keys.new_identity("carol", tmp_path)
    file = tmp_path / "all.pem"
    file.write_bytes(b"".join(part.read_bytes() for part in (bob / "bob.key", bob / "bob.pem", carol / "carol.pem")))
    added = keys.trust(file, tmp_path / "trusted")
    assert added.read_bytes() == (bob / "bob.pem").read_bytes()
    assert [file.name for file in added.parent.iterdir()] == ["bob.pem"]


def test_to_trust_one_twice_changes_nothing(tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path)
    assert keys.trust(bob / "bob.pem", tmp_path / "trusted") == keys.trust(bob / "bob.pem", tmp_path / "trusted")


def test_another_certificate_of_the_same_name_is_refused(tmp_path: Path) -> None:
    first, second = keys.new_identity("bob", tmp_path / "1"), keys.new_identity("bob", tmp_path / "2")
    target = keys.trust(first / "bob.pem", tmp_path / "trusted")
    with pytest.raises(IdentityError, match=f"{keys.fingerprint(certificate_of(first))}.*: remove {target} first"):
        keys.trust(second / "bob.pem", tmp_path / "trusted")
    assert der_of(target) == der_of(first / "bob.pem")
    target.unlink()
    assert der_of(keys.trust(second / "bob.pem", tmp_path / "trusted")) == der_of(second / "bob.pem")


def test_an_authority_is_trusted_only_by_those_who_say_so(tmp_path: Path) -> None:
    clinic = keys.new_identity("clinic", tmp_path, is_authority=True)
    with pytest.raises(IdentityError, match="authority: whoever trusts it trusts all that it signs.*--authority"):
        keys.trust(clinic / "clinic.pem", tmp_path / "trusted")
    assert not (tmp_path / "trusted").exists()
    assert keys.trust(clinic / "clinic.pem", tmp_path / "trusted", authority=True).name == "clinic.pem"


def test_whom_an_authority_signed_can_be_trusted_alone(tmp_path: Path) -> None:
    clinic = keys.new_identity("clinic", tmp_path, is_authority=True)
    bob = keys.new_identity("bob", tmp_path, authority=clinic)
    for directory, authority in (("1", False), ("2", True)):
        assert keys.trust(bob / "bob.pem", tmp_path / directory, authority=authority).name == "bob.pem"


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe\0", "the key", "a directory", None])
def test_what_is_no_certificate(tmp_path: Path, content: bytes | str | None) -> None:
    bob = keys.new_identity("bob", tmp_path)
    file = bob / "bob.key" if content == "the key" else tmp_path / "file.pem"
    if content == "a directory":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(IdentityError, match=str(file)):
        keys.trust(file, tmp_path / "trusted")
    assert not (tmp_path / "trusted").exists()


@pytest.mark.parametrize("names", [(), ("bob", "alice"), ("../bob",), ("a/b",), (".",), ("b b",), ("bób",)])
def test_a_certificate_whose_name_cannot_be_a_file_s(tmp_path: Path, names: tuple[str, ...]) -> None:
    odd = odd_identity(tmp_path / "odd", names=names)
    with pytest.raises(IdentityError, match="where one name of letters"):
        keys.trust(odd / "odd.pem", tmp_path / "trusted")
    assert not (tmp_path / "trusted").exists()


# --- certificates that were altered


def trusted_altered(der: bytes, tmp_path: Path, *, authority: bool = False) -> bool:
    """Whether it is put on the list."""
    file = tmp_path / "altered.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(der))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cryptography has doubts about some serial numbers
            keys.trust(file, tmp_path / "trusted", authority=authority).unlink()
    except IdentityError:
        return False
    return True


def test_an_altered_key_or_signature_is_refused(tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path)
    der = der_of(bob / "bob.pem")
    key = (
        certificate_of(bob)
        .public_bytes(serialization.Encoding.DER)
        .index(
            certificate_of(bob).public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        )
    )
    for place in (key, key + 31, len(der) - 64, len(der) - 1):
        altered = bytearray(der)
        altered[place] ^= 1
        with pytest.raises(IdentityError, match="not signed by its own key: it was altered"):
            file = tmp_path / "altered.pem"
            file.write_text(ssl.DER_cert_to_PEM_cert(bytes(altered)))
            keys.trust(file, tmp_path / "trusted")


def test_an_altered_name_is_refused(tmp_path: Path) -> None:
    """The key that it says it was signed with is its own."""
    der = der_of(keys.new_identity("bobby", tmp_path) / "bobby.pem")
    issuer, subject = der.index(b"bobby"), der.rindex(b"bobby")
    assert issuer != subject
    for place in (issuer, subject):
        altered = bytearray(der)
        altered[place : place + 5] = b"carol"
        assert not trusted_altered(bytes(altered), tmp_path), place


def test_an_altered_authority_is_refused(tmp_path: Path) -> None:
    der = der_of(keys.new_identity("clinic", tmp_path, is_authority=True) / "clinic.pem")
    assert trusted_altered(der, tmp_path, authority=True)
    altered = bytearray(der)
    altered[-1] ^= 1
    assert not trusted_altered(bytes(altered), tmp_path, authority=True)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_certificate_with_any_byte_altered_raises_no_other_error(tmp_path: Path, flip: int) -> None:
    der = der_of(keys.new_identity("bob", tmp_path) / "bob.pem")
    assert trusted_altered(der, tmp_path)
    others = []
    for place in range(len(der)):
        altered = bytearray(der)
        altered[place] ^= flip
        try:
            trusted_altered(bytes(altered), tmp_path)
        except Exception as error:
            others.append(f"{place}: {type(error).__name__}")
    assert not others


def test_a_fingerprint_is_that_of_the_whole_certificate(tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path)
    shown = keys.fingerprint(certificate_of(bob))
    assert shown == fingerprint_of(der_of(bob / "bob.pem"))
    assert len(shown) == 64 and int(shown, 16)

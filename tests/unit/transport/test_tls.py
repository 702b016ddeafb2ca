"""Mutual TLS: who is let in, who is not, and who the other side turned out to be."""

import contextlib
import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from certificates import DAY, odd_identity, trusting

from ptrtensor.errors import IdentityError
from ptrtensor.owner import keys
from ptrtensor.transport.dialing import NOT_TRUSTED_HERE, is_alert
from ptrtensor.transport.tls import Credentials, Peer, certificates_of, context, fingerprint_of, peer_of

DEADLINE: Final = 20.0


@pytest.fixture
def bob(tmp_path: Path) -> Path:
    return keys.new_identity("bob", tmp_path)


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    return keys.new_identity("alice", tmp_path)


def credentials(identity: Path, *trusted: Path) -> Credentials:
    """Of this identity, which trusts those."""
    return Credentials(identity, trusting(identity.with_name(f"{identity.name}-trusts"), *trusted))


def shake(sock: socket.socket, secure: ssl.SSLContext, server: bool) -> ssl.SSLSocket:
    """A handshake, and a byte to the client: in TLS 1.3 it hears of its certificate only when it reads."""
    sock.settimeout(DEADLINE)
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(secure.wrap_socket(sock, server_side=server))
        if server:
            made.sendall(b"x")
        else:
            assert made.recv(1) == b"x"
        stack.pop_all()
    return made


Outcome = ssl.SSLSocket | BaseException


def meet(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Outcome, Outcome]:
    """What became of a handshake at the server and at the client."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(shake, ours, server, True), pool.submit(shake, theirs, client, False)
        errors = running[0].exception(DEADLINE), running[1].exception(DEADLINE)
    ours.close()
    theirs.close()
    return errors[0] or running[0].result(), errors[1] or running[1].result()


def met(server: Credentials, client: Credentials) -> tuple[Peer, Peer]:
    """Whom the server and the client met."""
    here, there = meet(context(server, server=True), context(client, server=False))
    assert isinstance(here, ssl.SSLSocket), repr(here)
    assert isinstance(there, ssl.SSLSocket), repr(there)
    with here, there:
        assert here.version() == there.version() == "TLSv1.3"
        return peer_of(here, server), peer_of(there, client)


def refused_by_server(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Why the server refused the client, who heard of it."""
    here, there = meet(server, client)
    assert isinstance(here, ssl.SSLError), repr(here)
    assert isinstance(there, ssl.SSLError) and is_alert(there), repr(there)
    return str(here)


def refused_by_client(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLCertVerificationError:
    here, there = meet(server, client)
    assert isinstance(here, ssl.SSLError) and is_alert(here), repr(here)
    assert isinstance(there, ssl.SSLCertVerificationError), repr(there)
    return there


def both(server: Credentials, client: Credentials) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return context(server, server=True), context(client, server=False)


# --- handshakes


def test_two_that_trust_each_other(bob: Path, alice: Path) -> None:
    client, server = met(credentials(bob, alice), credentials(alice, bob))
    assert client == Peer("alice", fingerprint_of(certificates_of(alice / "alice.pem")[0]), True)
    assert server == Peer("bob", fingerprint_of(certificates_of(bob / "bob.pem")[0]), True)
    assert server.fingerprint == keys.fingerprint(keys.read_certificate(bob / "bob.pem"))


def test_one_of_many_that_are_trusted(bob: Path, alice: Path, tmp_path: Path) -> None:
    others = [keys.new_identity(f"other{number}", tmp_path) for number in range(3)]
    client, server = met(credentials(bob, *others, alice), credentials(alice, bob, *others))
    assert (client.name, server.name) == ("alice", "bob")


def test_a_client_that_the_server_does_not_trust(bob: Path, alice: Path, tmp_path: Path) -> None:
    carol = keys.new_identity("carol", tmp_path)
    reason = refused_by_server(*both(credentials(bob, carol), credentials(alice, bob)))
    assert "CERTIFICATE_VERIFY_FAILED" in reason and "self-signed" in reason


def test_a_server_that_the_client_does_not_trust(bob: Path, alice: Path, tmp_path: Path) -> None:
    carol = keys.new_identity("carol", tmp_path)
    error = refused_by_client(*both(credentials(bob, alice), credentials(alice, carol)))
    assert error.verify_code in NOT_TRUSTED_HERE


def test_another_certificate_of_a_trusted_name_is_not_trusted(bob: Path, alice: Path, tmp_path: Path) -> None:
    imposter = keys.new_identity("bob", tmp_path / "elsewhere")
    error = refused_by_client(*both(credentials(imposter, alice), credentials(alice, bob)))
    assert error.verify_code in NOT_TRUSTED_HERE
    assert met(credentials(bob, alice), Credentials(alice, tmp_path / "alice-trusts"))


def test_a_client_without_a_certificate(bob: Path, alice: Path) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(bob / "bob.pem")
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in refused_by_server(
        context(credentials(bob, alice), server=True), client
    )


@pytest.mark.parametrize("server", [True, False])
def test_tls_1_2_is_not_spoken(bob: Path, alice: Path, server: bool) -> None:
    contexts = both(credentials(bob, alice), credentials(alice, bob))
    old = contexts[0 if server else 1]
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert all(isinstance(outcome, ssl.SSLError) for outcome in meet(*contexts))


def test_a_connection_made_again_shows_its_certificate_again(bob: Path, alice: Path) -> None:
    """Else whoever was taken from the list could come back with a ticket."""
    server, client = both(credentials(bob, alice), credentials(alice, bob))
    here, there = meet(server, client)
    assert isinstance(here, ssl.SSLSocket) and isinstance(there, ssl.SSLSocket)
    with here, there:
        session = there.session
        assert session is None or not session.has_ticket


@pytest.mark.parametrize(
    ("begins", "ends", "message"),
    [(-2 * DAY, -DAY, "expired"), (DAY, 2 * DAY, "not yet valid")],
    ids=["past", "future"],
)
def test_a_certificate_that_is_not_valid_now(
    alice: Path, tmp_path: Path, begins: timedelta, ends: timedelta, message: str
) -> None:
    odd = odd_identity(tmp_path / "odd", begins=begins, ends=ends)
    theirs, mine = credentials(odd, alice), credentials(alice, odd)
    error = refused_by_client(*both(theirs, mine))
    assert message in error.verify_message and error.verify_code not in NOT_TRUSTED_HERE
    assert message in refused_by_server(*both(mine, theirs))


# --- authorities


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    return keys.new_identity("clinic", tmp_path, is_authority=True)


def test_whom_an_authority_signed_is_trusted_and_not_pinned(clinic: Path, alice: Path, tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path, authority=clinic)
    client, server = met(credentials(bob, alice), credentials(alice, clinic))
    assert server == Peer("bob", fingerprint_of(certificates_of(bob / "bob.pem")[0]), False)
    assert client.pinned
    client, server = met(Credentials(alice, tmp_path / "alice-trusts"), Credentials(bob, tmp_path / "bob-trusts"))
    assert (client.name, client.pinned) == ("bob", False)


def test_one_of_an_authority_that_is_trusted_itself_is_pinned(clinic: Path, alice: Path, tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path, authority=clinic)
    assert met(credentials(bob, alice), credentials(alice, bob))[1].pinned
    carol = keys.new_identity("carol", tmp_path, authority=clinic)
    error = refused_by_client(*both(credentials(carol, alice), Credentials(alice, tmp_path / "alice-trusts")))
    assert error.verify_code in NOT_TRUSTED_HERE


def test_another_authority_of_that_name_is_not_trusted(clinic: Path, alice: Path, tmp_path: Path) -> None:
    other = keys.new_identity("clinic", tmp_path / "elsewhere", is_authority=True)
    bob = keys.new_identity("bob", tmp_path, authority=other)
    refused_by_client(*both(credentials(bob, alice), credentials(alice, clinic)))


def test_one_that_is_trusted_cannot_vouch_for_others(bob: Path, alice: Path, tmp_path: Path) -> None:
    imposter = odd_identity(tmp_path / "carol", issuer=bob)
    refused_by_client(*both(credentials(imposter, alice), credentials(alice, bob)))
    refused_by_server(
        *both(Credentials(alice, tmp_path / "alice-trusts"), Credentials(imposter, tmp_path / "carol-trusts"))
    )


def test_one_that_an_authority_signed_cannot_vouch_for_others(clinic: Path, alice: Path, tmp_path: Path) -> None:
    bob = keys.new_identity("bob", tmp_path, authority=clinic)
    imposter = odd_identity(tmp_path / "carol", issuer=bob)
    with (imposter / "carol.pem").open("ab") as stream:
        stream.write((bob / "bob.pem").read_bytes())  # it shows the whole chain
    refused_by_client(*both(credentials(imposter, alice), credentials(alice, clinic)))


# --- names


@pytest.mark.parametrize("names", [(), ("bob", "alice")])
def test_a_certificate_without_one_name_names_nobody(alice: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    odd = odd_identity(tmp_path / "odd", names=names)
    mine = credentials(alice, odd)
    here, there = meet(*both(credentials(odd, alice), mine))
    assert isinstance(here, ssl.SSLSocket) and isinstance(there, ssl.SSLSocket)
    with here, there, pytest.raises(IdentityError, match=f"{len(names)} names instead of one"):
        peer_of(there, mine)


# --- files


def test_whoever_is_taken_from_the_list_is_not_let_in_any_more(bob: Path, alice: Path, tmp_path: Path) -> None:
    mine, theirs = credentials(bob, alice), credentials(alice, bob)
    assert met(mine, theirs)
    (mine.trust / "alice.pem").unlink()
    with pytest.raises(IdentityError, match="nobody is trusted"):
        context(mine, server=True)
    keys.trust(keys.new_identity("carol", tmp_path) / "carol.pem", mine.trust)
    refused_by_server(*both(mine, theirs))
    keys.trust(alice / "alice.pem", mine.trust)
    assert met(mine, theirs)


def test_where_the_files_of_an_identity_are(bob: Path, alice: Path) -> None:
    found = credentials(bob, alice)
    assert found.key == bob / "bob.key"
    assert found.certificate == bob / "bob.pem"
    assert found.trusted == [found.trust / "alice.pem"]


@pytest.mark.parametrize("count", [0, 2])
def test_an_identity_has_one_key(bob: Path, alice: Path, count: int) -> None:
    mine = credentials(bob, alice)
    (bob / "bob.key").rename(bob / "bob")
    for number in range(count):
        (bob / f"{number}.key").write_text("")
    with pytest.raises(IdentityError, match=f"has {count} files .* Make an identity with: ptrtensor keys new NAME"):
        context(mine, server=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_read_is_refused(bob: Path, alice: Path, mode: int) -> None:
    mine = credentials(bob, alice)
    (bob / "bob.key").chmod(mode)
    with pytest.raises(IdentityError, match=rf"mode {mode:04o}.*protect it: chmod 600 {bob / 'bob.key'}\."):
        context(mine, server=True)
    for private in (0o600, 0o400, 0o700):
        (bob / "bob.key").chmod(private)
        context(mine, server=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_another_user_s_key_was_given_to_be_read(bob: Path, alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service's is, which belongs to root and to its group."""
    (bob / "bob.key").chmod(0o640)
    monkeypatch.setattr(os, "getuid", lambda: 2**20)
    context(credentials(bob, alice), server=True)


@pytest.mark.parametrize("what", ["absent", "a file"])
def test_an_identity_is_a_directory(bob: Path, tmp_path: Path, what: str) -> None:
    nothing = tmp_path / "nothing"
    if what == "a file":
        nothing.write_text("")
    with pytest.raises(IdentityError, match="is no identity"):
        context(Credentials(nothing, trusting(tmp_path / "trusted", bob)), server=False)


@pytest.mark.parametrize("server", [True, False])
def test_nobody_is_trusted(bob: Path, tmp_path: Path, server: bool) -> None:
    empty = tmp_path / "empty"
    for _ in range(2):  # absent, and then without a certificate
        with pytest.raises(IdentityError, match=f"nobody is trusted. Add one with: ptrtensor .* --trust {empty}"):
            context(Credentials(bob, empty), server=server)
        empty.mkdir(exist_ok=True)
        (empty / "notes.txt").write_text("")


@pytest.mark.parametrize("suffix", [".pem", ".key"])
@pytest.mark.parametrize("content", [b"", b"this is none", b"\xff\xfe\0", "another's", None])
def test_an_identity_whose_files_do_not_fit(
    bob: Path, alice: Path, tmp_path: Path, suffix: str, content: bytes | str | None
) -> None:
    mine = credentials(bob, alice)
    file = bob / f"bob{suffix}"
    if content is None:
        file.unlink()
    else:
        file.write_bytes((alice / f"alice{suffix}").read_bytes() if isinstance(content, str) else content)
    with pytest.raises(IdentityError, match=str(bob)):
        context(mine, server=False)


@pytest.mark.parametrize("content", [b"", b"this is none", b"\xff\xfe\0", "a key", None])
def test_a_file_among_the_trusted_that_is_no_certificate(bob: Path, alice: Path, content: bytes | str | None) -> None:
    mine = credentials(bob, alice)
    odd = mine.trust / "odd.pem"
    if content is None:
        odd.mkdir()
    else:
        odd.write_bytes((alice / "alice.key").read_bytes() if isinstance(content, str) else content)
    with pytest.raises(IdentityError, match=f"{odd} in the directory of trusted certificates is none"):
        context(mine, server=True)


def test_a_trusted_file_may_say_what_it_is(bob: Path, alice: Path) -> None:
    """As what `openssl x509 -text` writes does: TLS takes it, so finding out who came must take it too."""
    mine = credentials(bob, alice)
    file = mine.trust / "alice.pem"
    file.write_text("Certificate of Alice, Zürich\n" + file.read_text())
    client, _ = met(mine, credentials(alice, bob))
    assert client.pinned

"""The commands: what they do, and what went wrong in one line."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch
from desk import ALICE
from typer.testing import CliRunner, Result

from ptrtensor import __main__
from ptrtensor._torch.memory import bytes_of, meta_of
from ptrtensor.cli import app
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.decisions import record_decisions
from ptrtensor.owner.requests import Requests
from ptrtensor.owner.state import State
from ptrtensor.version import __version__
from ptrtensor.wire.control import Asking


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> list[str]:
    """What a command that went well printed."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.splitlines()


def failed(*arguments: object) -> str:
    """What a command that went wrong said: one line, and no traceback."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("ptrtensor: ")
    return line.removeprefix("ptrtensor: ")


def misused(*arguments: object) -> str:
    """What was said of arguments that cannot be understood."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit) and "Traceback" not in result.output
    return result.output


@pytest.fixture(autouse=True)
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """`serve` adds a handler for the rest of the process."""
    logger = logging.getLogger("ptrtensor")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_the_version() -> None:
    assert done("--version") == [__version__]


@pytest.mark.parametrize(("arguments", "commands"), [([], ["keys", "serve"]), (["keys"], ["new", "trust", "show"])])
def test_without_a_command_there_is_help(arguments: list[str], commands: list[str]) -> None:
    for further in ([], ["--help"]):
        output = run(*arguments, *further).output
        assert "Usage:" in output and all(command in output for command in commands)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["keys", "nonsense"], ["--nonsense"], ["keys", "new"], ["keys", "trust"]]
)
def test_what_is_no_command(arguments: list[str]) -> None:
    assert "Usage:" in misused(*arguments)


# --- keys


def test_two_who_trust_each_other() -> None:
    """As their owners would do it, comparing fingerprints over the telephone."""
    shown = {}
    for name in ("alice", "bob"):
        made, fingerprint = done("keys", "new", name)
        assert made == f"made {name}; hand out {name}/{name}.pem, and never the key"
        shown[name] = fingerprint
    added, fingerprint = done("keys", "trust", "bob/bob.pem")
    assert added == "trusted from now on: trusted/bob.pem"
    assert fingerprint == f"{shown['bob']}: compare it with its owner's"
    _, fingerprint = done("keys", "trust", "alice/alice.pem", "--trust", "bob-trusts")
    assert fingerprint.startswith(shown["alice"]) and Path("bob-trusts/alice.pem").exists()
    assert shown["alice"] != shown["bob"]
    assert shown["bob"] == f"fingerprint {keys.fingerprint(keys.read_certificate(Path('bob/bob.pem')))}"


def test_where_and_for_how_long() -> None:
    done("keys", "new", "bob", "--into", "some/where", "--days", 1)
    certificate = keys.read_certificate(Path("some/where/bob/bob.pem"))
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 1


def test_an_authority() -> None:
    done("keys", "new", "clinic", "--authority")
    done("keys", "new", "bob", "--signed-by", "clinic")
    assert keys.read_certificate(Path("bob/bob.pem")).issuer == keys.read_certificate(Path("clinic/clinic.pem")).subject
    assert "--authority" in failed("keys", "trust", "clinic/clinic.pem")
    assert done("keys", "trust", "clinic/clinic.pem", "--authority")[0] == "trusted from now on: trusted/clinic.pem"


def test_whose_certificate_a_file_is() -> None:
    for arguments, kind in (["bob", "--days", 1], "an identity"), (["clinic", "--authority"], "an authority"):
        _, fingerprint = done("keys", "new", *arguments)
        file = Path(f"{arguments[0]}/{arguments[0]}.pem")
        until = keys.read_certificate(file).not_valid_after_utc.date().isoformat()
        assert done("keys", "show", file) == [f"{arguments[0]}, {kind}, valid until {until}", fingerprint]
    assert "is no certificate" in failed("keys", "show", "bob/bob.key")


def test_what_keys_cannot_do() -> None:
    done("keys", "new", "bob")
    assert "never overwritten" in failed("keys", "new", "bob")
    assert "cannot be a name" in failed("keys", "new", "b/b")
    assert "is no authority" in failed("keys", "new", "alice", "--signed-by", "bob")
    assert "is no identity" in failed("keys", "new", "alice", "--signed-by", "nobody")
    assert "Not a directory" in failed("keys", "new", "alice", "--into", "bob/bob.pem")
    assert "cannot be read" in failed("keys", "trust", "nothing.pem")
    assert "is no certificate" in failed("keys", "trust", "bob/bob.key")


def test_an_authority_s_key_that_is_none() -> None:
    done("keys", "new", "clinic", "--authority")
    Path("clinic/clinic.key").write_text("none")
    failed("keys", "new", "bob", "--signed-by", "clinic")


@pytest.mark.parametrize("days", ["0", "-1", "36501", "x", "1.5"])
def test_days_that_are_none(days: str) -> None:
    assert "--days" in misused("keys", "new", "bob", "--days", days)
    assert not Path("bob").exists()


# --- serve


@pytest.fixture
def ready(in_directory: Path) -> list[object]:
    """Arguments with which the worker could serve."""
    bob, alice = keys.new_identity("bob", in_directory), keys.new_identity("alice", in_directory)
    keys.trust(alice / "alice.pem", in_directory / "trusted")
    return ["serve", "--id", "bob", "--identity", bob, "--listen", "127.0.0.1:0"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ([], "--id"),
        (["--id", "bob"], "--identity"),
        (["--identity", "bob"], "--id"),
        (["--id", "bob", "--identity", "bob", "--sessions", "0"], "--sessions"),
        (["--id", "bob", "--identity", "bob", "--threads", "0"], "--threads"),
        (["--id", "bob", "--identity", "bob", "--threads", "many"], "--threads"),
        (["--id", "bob", "--identity", "bob", "--lease", "-1"], "--lease"),
        (["--id", "bob", "--identity", "bob", "--max-objects", "0"], "--max-objects"),
        (["--id", "bob", "--identity", "bob", "--policy"], "--policy"),
        (["--id", "bob", "--identity", "bob", "--nonsense"], "--nonsense"),
        (["--id", "bob", "--identity", "bob", "rows.npy"], "rows.npy"),
    ],
)
def test_arguments_of_serve_that_are_none(arguments: list[str], option: str) -> None:
    assert option in misused("serve", *arguments)


@pytest.mark.parametrize("address", ["7700", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:http", "::1:7700", ""])
def test_an_address_that_is_none(ready: list[object], address: str) -> None:
    assert "a worker's address is HOST:PORT" in failed(*ready, "--listen", address)


def test_an_address_of_another_machine(ready: list[object]) -> None:
    failed(*ready, "--listen", "192.0.2.1:7700")


@pytest.mark.parametrize("device", ["cuda:77", "meta", "no such device"])
def test_a_device_that_is_not_there(ready: list[object], device: str) -> None:
    assert repr(device) in failed(*ready, "--compute-device", device)


def test_an_address_that_is_taken(ready: list[object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        message = failed(*ready, "--listen", f"127.0.0.1:{listener.getsockname()[1]}")
    assert "in use" in message


def test_an_authority_does_not_serve(ready: list[object], in_directory: Path) -> None:
    clinic = keys.new_identity("clinic", in_directory, is_authority=True)
    assert "does not serve" in failed(*ready, "--identity", clinic)


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda: None, ["--identity", "nobody"], "nobody is no identity"),
        (lambda: None, ["--trust", "nobody"], "nobody is trusted"),
        (lambda: Path("bob/bob.key").write_text(""), [], "cannot be used"),
        (
            lambda: Path("trusted/odd.pem").write_text(""),
            [],
            "odd.pem in the directory of trusted certificates is none",
        ),
        (lambda: None, ["--data", "nothing.npy"], "nothing.npy"),
        (lambda: None, ["--policy", "nothing.toml"], "nothing.toml cannot be read: No such file"),
        (lambda: Path("p.toml").write_text("[[rule]]\nreed = 1"), ["--policy", "p.toml"], "p.toml, line 2: "),
        (lambda: Path("p.toml").write_bytes(b"\xff"), ["--policy", "p.toml"], "p.toml is no TOML"),
        (lambda: None, ["--lease", "inf"], "--lease: inf is no number of seconds that a session can wait"),
        (lambda: None, ["--lease", "1e10"], "--lease: 1e+10 is no number of seconds"),
        (lambda: None, ["--max-memory", "8 GB"], "--max-memory: a size is a number of bytes"),
        (lambda: None, ["--max-memory", "99999999TiB"], "--max-memory: a size of 99999999TiB is more than"),
        (lambda: None, ["--max-memory", ""], "--max-memory: a size is a number of bytes"),
        (lambda: Path("s").mkdir(), ["--state", "s"], "the state s cannot be used: it is no regular file"),
        (
            lambda: Path("s").write_text("x" * 999),
            ["--state", "s"],
            "the state s cannot be used: file is not a database",
        ),
        (lambda: None, ["--state", "nowhere/s"], "the state nowhere/s cannot be used"),
        (lambda: Path("a").write_text("{}\n"), ["--audit", "a"], "line 1 of a is cut off"),
        (lambda: None, ["--audit", "/dev/null"], "the audit log /dev/null cannot be written: it is no regular file"),
        (lambda: None, ["--state", "/dev/null"], "the state /dev/null cannot be used: it is no regular file"),
        (lambda: Path("x.csv").write_text("1,2\n3\n"), ["--data", "x.csv"], "line 2 has 1 cells instead of 2"),
        (lambda: Path("x.txt").write_text(""), ["--data", "x.txt"], "readable are .safetensors, .npy"),
        (lambda: Path("empty").mkdir(), ["--data", "empty"], "has no file of these"),
        (lambda: Path("x.csv").write_text("1\n"), ["--data", "x.csv", "--data", "x.csv"], "two tensors are called 'x'"),
    ],
)
def test_what_cannot_be_served(
    ready: list[object], prepare: Callable[[], object], arguments: list[str], message: str
) -> None:
    prepare()
    assert message in failed(*ready, *arguments)


@pytest.mark.parametrize(
    ("prepare", "audit", "state"),
    [
        (lambda: None, "x", "x"),
        (lambda: None, "bob/../x", "x"),
        (lambda: Path("x").symlink_to("y"), "x", "y"),
        (lambda: Path("x").symlink_to("y"), "y", "x"),
        (lambda: os.link(Path("bob/bob.pem"), "y"), "bob/bob.pem", "y"),
        (lambda: None, "x-wal", "x"),
        (lambda: None, "x.lock", "x"),
    ],
    ids=["same", "by another way", "log by a link", "state by a link", "two names", "SQLite's log", "lock"],
)
def test_one_file_is_not_state_and_log(
    ready: list[object], prepare: Callable[[], object], audit: str, state: str
) -> None:
    prepare()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert "are one file, or the log is one that belongs to" in failed(*ready, "--audit", audit, "--state", state)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_an_npz_file_that_was_cut(ready: list[object]) -> None:
    Path("x.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "x.npz" in failed(*ready, "--data", "x.npz")


# --- the console script


def test_the_script_runs_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ptrtensor", "--version"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert not caught.value.code
    assert capsys.readouterr().out.strip() == __version__


def test_what_must_be_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ptrtensor.cli")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"ptrtensor: this needs typer: pip install 'ptrtensor\[serve\]'"):
        __main__.main()


def test_an_audit_log_is_checked_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.record("session began", client="alice", session="1")
    told = {"object": 7, "objects": ("patients",), "operation": "aten::mul.Tensor", "tensor": "float32[3]", "bytes": 12}
    audit.record("denied", client="alice", session="1", what="the value", **told, count=2)
    audit.record("denied", client="carol", session="2", what="the value", objects=("scans", "patients"))
    audit.close()
    assert run("audit", "verify", path).output.startswith(f"{path} holds together: 3 records, last ")
    assert run("audit", "show", path).output.count("\n") == 3
    shown = run("audit", "show", path, "--event", "denied", "--client", "alice", "--since", "2020-01-01")
    about = "object=7  objects=['patients']  operation=aten::mul.Tensor  tensor=float32[3]  bytes=12  count=2"
    assert shown.output.count("\n") == 1 and f"what=the value  {about}" in shown.output
    assert run("audit", "show", path, "--session", "2", "--since", "9999-12-31T23:59").output == ""
    assert "yesterday" in run("audit", "show", path, "--since", "yesterday").output
    assert run("audit", "show", path, "--object", "patients").output.count("\n") == 2
    assert run("audit", "show", path, "--object", "scans").output.count("\n") == 1
    assert run("audit", "show", path, "--event", "quota used up").output == ""
    assert "one of 'server started', 'published'," in " ".join(
        misused("audit", "show", path, "--event", "typo").split()
    )
    path.write_text(path.read_text().replace("carol", "alice"))
    assert "line 3" in failed("audit", "verify", path)


def audit_log(path: Path, *clients: str) -> list[str]:
    """The last hash after each of its records."""
    hashes = []
    for client in clients:
        audit = Audit(path)
        audit.record("denied", client=client)
        audit.close()
        hashes.append(done("audit", "verify", path)[0].rpartition(" ")[2])
    return hashes


def test_a_noted_hash_shows_a_chain_that_was_made_anew(tmp_path: Path) -> None:
    """Or emptied: it holds together by itself."""
    path, other = tmp_path / "audit.jsonl", tmp_path / "other.jsonl"
    first, last = audit_log(path, "alice", "carol")
    for noted, number in (first, 0), (last, 1), (last.upper(), 1):
        (line,) = done("audit", "verify", path, "--noted", noted)
        assert line.endswith(f"2 records, last {last}; the noted hash is that of record {number}")
    assert done("audit", "verify", path, "--noted", "0" * 64)[0].endswith("is that before the first record")
    audit_log(other, "alice", "dora")
    for content, count in (b"", 0), (other.read_bytes(), 2), (path.read_bytes().splitlines(keepends=True)[0], 1):
        path.write_bytes(content)
        done("audit", "verify", path)
        said = failed("audit", "verify", path, "--noted", last)
        assert said.startswith(f"{path} holds together by itself, but none of its {count} records has the noted hash")
    for text in "", "1f", last + "0", "x" * 64:
        assert "--noted takes a hash as `audit verify` prints it" in failed("audit", "verify", path, "--noted", text)


def test_records_are_shown_since_a_time_as_the_log_has_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit_log(path, "alice", "carol")
    first, second = (line.split()[1] for line in done("audit", "show", path))
    assert len(done("audit", "show", path, "--since", first)) == 2
    assert len(done("audit", "show", path, "--since", second)) == 1
    later = datetime.fromisoformat(second).astimezone(timezone(timedelta(hours=5))) + timedelta(microseconds=1)
    assert done("audit", "show", path, "--since", later.isoformat(timespec="microseconds")) == []
    assert len(done("audit", "show", path, "--since", second.removesuffix("+00:00"))) == 1


def test_a_log_of_somebody_else_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.record("\x1b[2J", **{"\x1b[1m": "\n"})
    audit.close()
    (line,) = done("audit", "show", path)
    assert line.isprintable() and "\\x1b[2J" in line and "\\x1b[1m=\\n" in line


# --- requests


@pytest.fixture
def requests() -> Iterator[Requests]:
    """Of alice, in the file that the commands look for."""
    state = State(Path("state.sqlite"))
    yield Requests(state)
    state.close()


def asked(requests: Requests, value: torch.Tensor | None = None, reason: str = "for a paper") -> str:
    data = b"" if value is None else bytes(bytes_of(value))
    meta = None if value is None else meta_of(value)
    asking = Asking(7, ("patients",), reason, meta, data, "IndexError: no", "aten::mean.dim")
    return requests.file(ALICE, "session", asking).id


def test_requests_are_listed_until_they_are_decided(requests: Requests) -> None:
    assert done("requests", "list") == []
    first, second = asked(requests, torch.tensor([1.5, 2.0])), asked(requests)
    lines = done("requests", "list")
    assert [line.split()[0] for line in lines] == [second, first]
    assert "alice: float32[2] of patients: for a paper" in lines[1] and "pending" in lines[1]
    assert "alice: a failed operation of patients" in lines[0]
    assert done("requests", "deny", first, "--answer", "no") == ["denied: float32[2] for alice"]
    assert [line.split()[0] for line in done("requests", "list")] == [second]
    assert [line.split()[0] for line in done("requests", "list", "--all")] == [second, first]


def test_a_request_is_shown_with_the_value_that_would_leave(requests: Requests) -> None:
    value, failed_one = asked(requests, torch.tensor([1.5, -2.0])), asked(requests)
    shown = "\n".join(done("requests", "show", value))
    for text in (
        value,
        "pending",
        "alice",
        ALICE.fingerprint,
        "for a paper",
        "patients",
        "made by:       aten::mean.dim",
        "float32[2]",
        "[ 1.5000000000000, -2.0000000000000]",
    ):
        assert text in shown
    assert "decided" not in shown
    assert "IndexError: no" in "\n".join(done("requests", "show", failed_one))
    done("requests", "approve", value, "--answer", "well")
    assert "answer:        well" in done("requests", "show", value)
    record_decisions(requests, lambda event, **fields: None)
    requests.collect(ALICE, value)
    assert "value:         kept no longer" in done("requests", "show", value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.tensor(0.2 + 5e-9, dtype=torch.float64), "tensor(0.200000005000000"),
        (torch.tensor(0.2), "tensor(0.2000000029802)"),
        (torch.tensor(1.0e-7), "tensor(1.0000000116861e-07)"),
        (torch.tensor(1 / 3, dtype=torch.bfloat16), "tensor(0.33398438"),
        (torch.tensor(0.1 + 1j, dtype=torch.complex64), "tensor(0.1000000014901+1.j)"),
        (torch.tensor([12345678901]), "tensor([12345678901])"),
        (torch.tensor([True]), "tensor([True])"),
    ],
)
def test_every_digit_is_shown(requests: Requests, value: torch.Tensor, shown: str) -> None:
    """What is not seen leaves, too."""
    before = str(torch.tensor(1 / 3))
    assert shown in done("requests", "show", asked(requests, value))[-1]
    assert str(torch.tensor(1 / 3)) == before


def test_what_is_not_shown_of_a_large_value_is_said(requests: Requests) -> None:
    """Torch prints the edges, and four digits: the owner must not believe that he saw it all."""
    large, small = asked(requests, torch.zeros(2000)), asked(requests, torch.zeros(10))
    assert any("of its 2000 elements" in line for line in done("requests", "show", large))
    assert not any("elements" in line for line in done("requests", "show", small))


def test_the_owner_decides(requests: Requests) -> None:
    first, second = asked(requests, torch.zeros(2)), asked(requests)
    assert done("requests", "approve", first, "--answer", "well") == ["approved: float32[2] for alice"]
    assert done("requests", "deny", second) == ["denied: a failed operation for alice"]
    for command in "approve", "deny":
        assert failed("requests", command, first) == f"request {first} is approved already"
    assert done("requests", "revoke", first) == [f"request {first} is not approved any more"]
    assert failed("requests", "revoke", first) == f"request {first} is denied: there is nothing to take back"


@pytest.mark.parametrize("command", ["show", "approve", "deny", "revoke"])
def test_requests_that_are_none(requests: Requests, command: str) -> None:
    assert failed("requests", command, "nothing") == "there is no request nothing"
    assert "cannot be used" in failed("requests", command, "\udcff")
    assert "ID" in misused("requests", command)


@pytest.mark.parametrize("command", [["list"], ["show", "1f"], ["approve", "1f"], ["deny", "1f"], ["revoke", "1f"]])
def test_states_that_are_none(command: list[str]) -> None:
    assert "there is no state state.sqlite" in failed("requests", *command)
    Path("text").write_text("no database" * 100)
    assert "the state text cannot be used" in failed("requests", *command, "--state", "text")
    assert not Path("state.sqlite").exists()


def test_what_clients_write_does_nothing_to_a_terminal(requests: Requests) -> None:
    id = asked(requests, reason="\x1b[2J\n\rapproved\u202e")
    for line in (*done("requests", "list"), *done("requests", "show", id)):
        assert line.isprintable()
    assert any("\\x1b[2J\\n\\rapproved\\u202e" in line for line in done("requests", "list"))
    assert "cannot be used" in failed("requests", "deny", id, "--answer", "\udcff")


# --- status


@pytest.mark.parametrize("address", ["7700", "127.0.0.1:0", ""])
def test_where_no_worker_can_be_asked(ready: list[object], address: str) -> None:
    assert "a worker's address is HOST:PORT" in failed("status", address, "--identity", "bob")


def test_a_worker_that_does_not_answer(ready: list[object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        failed("status", f"127.0.0.1:{port}", "--identity", "bob", "--seconds", "0.3")
    failed("status", f"127.0.0.1:{port}", "--identity", "bob", "--seconds", "0.3")
    assert "nobody is no identity" in failed("status", f"127.0.0.1:{port}", "--identity", "nobody")
    assert "--seconds" in misused("status", f"127.0.0.1:{port}", "--identity", "bob", "--seconds", "0")
    assert "--identity" in misused("status", f"127.0.0.1:{port}")

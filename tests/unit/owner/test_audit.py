"""The audit log: each record bound to the one before."""

import ast
import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from ptrtensor import owner
from ptrtensor.errors import AuditError
from ptrtensor.owner import audit as module
from ptrtensor.owner.audit import (
    BEFORE_THE_FIRST,
    END,
    HASHED,
    Audit,
    AuditClosedError,
    Chain,
    Event,
    digest_of,
    records,
)
from ptrtensor.owner.requests import Outcome


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Five records."""
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.record("server started", worker="bob")
    for number in range(3):
        audit.record("denied", client="alice", objects=("patients",), count=number, what='"},{"hash":"')
    audit.record("server stopped", reason="é\n")
    audit.close()
    return path


def test_what_was_recorded_is_read(log: Path) -> None:
    found = list(records(log))
    assert [record["event"] for record in found] == ["server started", *["denied"] * 3, "server stopped"]
    assert [record["number"] for record in found] == [0, 1, 2, 3, 4]
    assert found[2]["objects"] == ["patients"] and found[2]["count"] == 1 and found[4]["reason"] == "é\n"
    assert sorted(str(record["time"]) for record in found) == [record["time"] for record in found]
    assert len(log.read_bytes().splitlines()) == 5


def test_only_its_owner_reads_it(log: Path) -> None:
    assert log.stat().st_mode & 0o777 == 0o600


def test_every_altered_byte_shows(log: Path) -> None:
    content = log.read_bytes()
    for place in range(len(content)):
        log.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(AuditError, match="does not hold from there on|is no JSON"):
            list(records(log))


@pytest.mark.parametrize("removed", range(4))
def test_a_removed_line_shows(log: Path, removed: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:removed] + lines[removed + 1 :]))
    with pytest.raises(AuditError, match=rf"line {removed + 1} of .* was altered, or a line before it was removed"):
        list(records(log))


def test_lines_that_changed_places_show(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(AuditError, match="line 2 of"):
        list(records(log))


def test_every_place_where_it_was_cut_shows_but_the_end_of_a_line(log: Path) -> None:
    content = log.read_bytes()
    for place in range(1, len(content)):
        log.write_bytes(content[:place])
        if content[place - 1 : place] == b"\n":
            assert len(list(records(log))) == content[:place].count(b"\n")
        else:
            with pytest.raises(AuditError, match="is cut off"):
                list(records(log))


def test_the_last_hash_tells_logs_apart_that_differ_in_their_end(log: Path) -> None:
    whole, part = Chain(), Chain()
    list(records(log, whole))
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    list(records(log, part))
    assert (whole.count, part.count) == (5, 4) and whole.last != part.last != BEFORE_THE_FIRST


# --- damage that has a name, and lines that nobody's server wrote


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content + b"\n", "line 6 of .* is blank; no server writes such a line, but an editor may"),
        (lambda content: content + b"\r\n", "line 6 of .* is blank"),
        (lambda content: content + b"  ", "line 6 of .* is blank"),
        (lambda content: content.replace(b"\n", b"\r\n"), "line 1 of .* ends with CR and LF, as an editor"),
        (lambda content: content[:-1], "line 5 of .* is cut off"),
    ],
    ids=["newline", "blank with CR", "spaces", "CRLF", "no newline"],
)
def test_what_an_editor_did_is_named(log: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    log.write_bytes(damage(log.read_bytes()))
    with pytest.raises(AuditError, match=said):
        list(records(log))


def test_a_file_without_lines_is_not_read_as_a_whole(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    with log.open("ab") as file:
        file.write(b"x" * 5000)
    read: list[dict[str, object]] = []
    with pytest.raises(AuditError, match="line 6 of .* is longer than 1000 bytes, and of no audit log"):
        read.extend(records(log))
    assert len(read) == 5
    log.unlink()
    audit = Audit(log)
    with pytest.raises(AuditError, match="takes no line of"):
        audit.record("denied", reason="x" * 1000)
    audit.record("denied")
    audit.close()
    assert len(list(records(log))) == 1


def chained(*bodies: bytes) -> bytes:
    """A log that somebody made who knows how hashes are made."""
    last, lines = BEFORE_THE_FIRST, []
    for body in bodies:
        last = digest_of(last, body)
        lines.append(body + HASHED + last.encode() + END)
    return b"".join(lines)


FIRST = b'{"number":0,"time":"2026-01-01T00:00:00.000000+00:00","event":"server started"'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"number":2,"time":"2026-01-01T00:00:00+00:00","event":"x"', "line 2 of .* has the number 2 and not 1: its"),
        (b'{"number":1,"time":"2026-01-01T00:00:00+00:00"', "line 2 of .* lacks a number, time or event"),
        (b'{"number":1,"time":"2026-01-01T00:00:00","event":"x"', "lacks a number, time or event"),
        (b'{"number":1,"time":"\\u001b[2J","event":"x"', "lacks a number, time or event"),
        (b'{"number":1,"event":"x"', "lacks a number, time or event"),
        (b'{"number":true,"time":"2026-01-01T00:00:00+00:00","event":"x"', "lacks a number"),
        (b'{"number":1.0,"time":"2026-01-01T00:00:00+00:00","event":"x"', "lacks a number"),
        (b'{"number":1,"time":"2026-01-01T00:00:00+00:00","event":["x"]', "lacks a number"),
        (b"{", "lacks a number"),
        (b'{"number":1,"event":"\xff"', "line 2 of .* is no JSON: 'utf-8' codec"),
        (b'{"number":' + b"[" * 100_000, "line 2 of .* is no JSON"),
        (b"[1", "line 2 of .* is no JSON"),
    ],
)
def test_a_chain_of_what_no_server_wrote(log: Path, body: bytes, said: str) -> None:
    log.write_bytes(chained(FIRST, body))
    with pytest.raises(AuditError, match=said):
        list(records(log))


def test_a_log_goes_on_where_it_ended(log: Path) -> None:
    audit = Audit(log)
    audit.record("server started", worker="bob")
    audit.close()
    assert [record["number"] for record in records(log)] == [0, 1, 2, 3, 4, 5]


def test_a_log_that_does_not_hold_is_not_gone_on_with(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b"alice", b"carol"))
    before = log.read_bytes()
    with pytest.raises(AuditError, match="line 2 of"):
        Audit(log)
    assert log.read_bytes() == before


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="Is a directory"):
        Audit(tmp_path)
    with pytest.raises(AuditError, match="No such file"):
        list(records(tmp_path / "none"))


def test_what_keeps_nothing_is_no_log(tmp_path: Path) -> None:
    """Nor is waited for somebody who reads it."""
    os.mkfifo(tmp_path / "pipe")
    for path in Path(os.devnull), tmp_path / "pipe":
        with pytest.raises(AuditError, match=f"the audit log {path} cannot be written: it is no regular file"):
            Audit(path)


@pytest.mark.parametrize("taken", [None, 0, 10])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int | None) -> None:
    """Nothing written, or a part, which does not stay; with room again a server goes on."""
    audit = Audit(tmp_path / "audit.jsonl")
    audit.record("server started")
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if taken is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:taken])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(AuditError, match="No space left|the disk is full"):
            audit.record("denied")
    audit.close()
    audit = Audit(tmp_path / "audit.jsonl")
    audit.record("server started")
    audit.close()
    assert len(list(records(tmp_path / "audit.jsonl"))) == 2


SECOND = """
import sys
from pathlib import Path
from ptrtensor.owner.audit import Audit
Audit(Path(sys.argv[1]))
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_a_log_has_one_writer(log: Path) -> None:
    before = log.read_bytes()
    audit = Audit(log)
    second = subprocess.run([sys.executable, "-c", SECOND, str(log)], capture_output=True, text=True, timeout=60)
    assert f"the audit log {log} is written by another server: each needs one of its own" in second.stderr
    with pytest.raises(AuditError, match="written by another server") as caught:
        Audit(log)
    assert "name another file with --audit" in caught.value.__notes__[0]
    assert len(list(records(log))) == 5, "to read it is open to all"
    audit.record("server started")
    audit.close()
    assert log.read_bytes().startswith(before)
    Audit(log).close()


def test_a_closed_log_is_left_alone_and_so_is_the_file_that_has_its_number_now(log: Path, tmp_path: Path) -> None:
    before = log.read_bytes()
    audit = Audit(log)
    audit.close()
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context((tmp_path / f"{number}.csv").open("w")) for number in range(20)]
        with pytest.raises(AuditClosedError, match="audit.jsonl is closed, and says nothing of this: session ended"):
            audit.record("session ended")
        audit.close()
        for other in others:
            other.write("mine")
    assert {path.read_text() for path in tmp_path.glob("*.csv")} == {"mine"} and log.read_bytes() == before


FORKED = """
import os, signal, sys
from pathlib import Path
from ptrtensor.errors import AuditError
from ptrtensor.owner.audit import Audit

def child(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    return pid

log = Path(sys.argv[1])
audit = Audit(log)
os.waitpid(child(audit.close), 0)
try:
    Audit(log)
except AuditError:
    print("still the parent's")
lives = child(signal.pause)
try:
    audit.close()
    Audit(log).close()
    print("free")
finally:
    os.kill(lives, signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_log_is_its_server_s_until_that_closes_it_whatever_its_forked_children_do(log: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(log)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("still the parent's\nfree\n", "")


@pytest.mark.parametrize("act", ["remove", "move", "replace"])
def test_a_log_that_is_not_there_any_more_is_not_written(log: Path, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written would be lost, or nobody would find it. Where the program is makes no difference."""
    monkeypatch.chdir(log.parent)
    audit = Audit(Path(log.name))
    monkeypatch.chdir("/")
    audit.record("denied")
    moved = log.with_suffix(".1")
    log.rename(moved)
    if act == "remove":
        moved.unlink()
    elif act == "replace":
        log.write_bytes(moved.read_bytes())
    with pytest.raises(AuditError, match=r"audit.jsonl was moved or removed while it was written: put it back"):
        audit.record("denied")
    if act == "move":
        moved.rename(log)
        audit.record("denied")
        assert len(list(records(log))) == 7
    audit.close()


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")

    def write() -> None:
        for _ in range(100):
            audit.record("denied", text="x" * 200)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    assert len(list(records(tmp_path / "audit.jsonl"))) == 400


def test_all_that_a_server_writes_down_is_among_the_events() -> None:
    """And nothing else is: whoever looks for one by a name that there is none of would find nothing, and believe it."""
    writers = {"record", "write_down", "_note", "try_to_record", "_refuse"}
    written = set()
    for path in Path(owner.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in writers:
                event = node.args[0] if node.args else None
                if isinstance(event, ast.Constant):
                    written.add(event.value)
    assert written | set(get_args(Outcome)) == set(get_args(Event))

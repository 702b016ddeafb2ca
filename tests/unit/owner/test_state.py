"""What a server remembers: counts of the day, each within its limit, whoever counts at the same time."""

import contextlib
import datetime
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hospital import make_keys

from ptrtensor.errors import PtrTensorError
from ptrtensor.owner import state as module
from ptrtensor.owner.options import Options
from ptrtensor.owner.serving import Prepared
from ptrtensor.owner.state import KEPT_DAYS, State, today, used

SECONDS = 60


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state.sqlite")
    yield made
    made.close()


def count(state: State, client: str, what: str) -> float:
    with state.transaction() as database:
        return used(database, today(), client, what)


def test_amounts_add_up_to_their_limit(state: State) -> None:
    for _ in range(3):
        assert state.use("alice", {"elements": (2, 6)}) == ""
    assert state.use("alice", {"elements": (1, 6)}) == "elements"
    assert state.use("alice", {"elements": (0, 6)}) == ""
    assert count(state, "alice", "elements") == 6


def test_clients_and_kinds_are_counted_apart(state: State) -> None:
    assert state.use("alice", {"elements": (6, 6)}) == ""
    assert state.use("carol", {"elements": (6, 6)}) == ""
    assert state.use("alice", {"bytes": (6, 6)}) == ""
    assert [count(state, client, "elements") for client in ("alice", "carol", "bob")] == [6, 6, 0]


def test_all_or_none_is_counted(state: State) -> None:
    assert state.use("alice", {"elements": (1, 6), "bytes": (9, 8)}) == "bytes"
    assert count(state, "alice", "elements") == 0


def test_without_a_limit_everything_is_counted(state: State) -> None:
    assert state.use("alice", {"operations": (2**63 - 1, None)}) == ""
    assert state.use("alice", {"operations": (2**70, None)}) == ""
    assert state.use("alice", {"operations": (0, 2**62)}) == "operations"


def test_nothing_is_given_back(state: State) -> None:
    """By a session's process that lies."""
    assert state.use("alice", {"elements": (6, 6)}) == ""
    for amount in (-6.0, float("nan"), float("-inf")):
        with pytest.raises(PtrTensorError, match="cannot be counted"):
            state.use("alice", {"elements": (amount, 6)})
    assert count(state, "alice", "elements") == 6


def test_a_new_day_begins_at_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state.use("alice", {"elements": (6, 6)}) == ""
    monkeypatch.setattr(module, "today", lambda: "9999-12-31")
    assert state.use("alice", {"elements": (6, 6)}) == ""


def day_before(days: int) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days)).date().isoformat()


def days_kept(state: State) -> list[str]:
    with state.transaction() as database:
        return [str(row["day"]) for row in database.execute("SELECT day FROM used ORDER BY day")]


def use_on(day: str, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "today", lambda: day)
        assert state.use("alice", {"elements": (6, 6)}) == ""


def test_old_days_are_forgotten(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    use_on(day_before(KEPT_DAYS + 1), state, monkeypatch)
    use_on(day_before(KEPT_DAYS - 1), state, monkeypatch)
    state.forget_old()
    assert days_kept(state) == [day_before(KEPT_DAYS - 1)]


def test_a_server_that_serves_for_months_forgets_them_too(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in range(100, -1, -1):
        use_on(day_before(days), state, monkeypatch)
    assert len(days_kept(state)) == KEPT_DAYS + 1 and days_kept(state)[-1] == day_before(0)


def test_and_so_does_one_that_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_keys(tmp_path)
    path = tmp_path / "state.sqlite"
    with contextlib.closing(State(path)) as state:
        use_on(day_before(KEPT_DAYS + 1), state, monkeypatch)
        use_on(day_before(1), state, monkeypatch)
    options = Options(id="bob", identity=tmp_path / "bob", trust=tmp_path / "trusted", listen="127.0.0.1:0", state=path)
    with Prepared(options):
        pass
    with contextlib.closing(State(path)) as state:
        assert days_kept(state) == [day_before(1)]


def test_two_connections_share_one_limit(tmp_path: Path) -> None:
    """The server and another process, or two threads: never more than the limit together."""
    states = [State(tmp_path / "state.sqlite") for _ in range(2)]
    granted: list[int] = []

    def use(state: State) -> None:
        granted.append(sum(state.use("alice", {"elements": (1, 50)}) == "" for _ in range(40)))

    threads = [threading.Thread(target=use, args=(state,)) for state in (*states, states[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 50 and count(states[0], "alice", "elements") == 50
    for state in states:
        state.close()


def test_what_fails_halfway_changes_nothing(state: State) -> None:
    with pytest.raises(KeyError), state.transaction() as database:
        database.execute("INSERT INTO used VALUES ('d', 'alice', 'elements', 1)")
        raise KeyError
    with state.transaction() as database:
        assert not database.execute("SELECT * FROM used").fetchall()


def test_it_is_there_when_opened_again(tmp_path: Path) -> None:
    first = State(tmp_path / "state.sqlite")
    first.use("alice", {"elements": (6, 6)})
    first.close()
    second = State(tmp_path / "state.sqlite", make=False)
    assert second.use("alice", {"elements": (1, 6)}) == "elements"
    second.close()


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    State(tmp_path / "state.sqlite").close()
    (tmp_path / "link").symlink_to("linked.sqlite")
    State(tmp_path / "link").close()
    for name in "state.sqlite", "linked.sqlite":
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


# --- who has it open

LIST = """
import sys
from pathlib import Path
from ptrtensor.owner.state import State
State(Path(sys.argv[1]), make=False).use("alice", {"elements": (1, 6)})
"""

CLAIM = """
import sys
from pathlib import Path
from ptrtensor.owner.state import State
state = State(Path(sys.argv[1]))
state.claim()
print("claimed", flush=True)
sys.stdin.read()
"""


def run(code: str, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_opened_twice_in_one_process_it_stays_one_database(tmp_path: Path) -> None:
    """Where SQLite's locks are lost, another process takes itself for the last, and deletes what this one writes to."""
    path = tmp_path / "state.sqlite"
    first = State(path)
    State(path).close()
    for _ in range(2):
        with run(LIST, path) as other:
            other.communicate(timeout=SECONDS)
        assert other.returncode == 0 and path.with_name("state.sqlite-wal").exists()
    assert count(first, "alice", "elements") == 2
    first.close()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_one_server_has_it_and_the_owner_s_commands_go_on(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("state.sqlite")
    first, second = State(tmp_path / "state.sqlite"), State(tmp_path / "link")
    first.claim()
    with pytest.raises(PtrTensorError, match=r"link is another server's, .* locked .*state\.sqlite\.lock: stop that"):
        second.claim()
    assert second.use("alice", {"elements": (1, 6)}) == ""
    first.close()
    second.claim()
    second.close()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_a_server_that_was_killed_has_it_no_more(tmp_path: Path, state: State) -> None:
    with run(CLAIM, tmp_path / "state.sqlite") as other:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        with pytest.raises(PtrTensorError, match="is another server's"):
            state.claim()
        other.kill()
    state.claim()


# --- files that are none


def test_one_that_is_not_there_is_not_made_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(PtrTensorError, match="there is no state"):
        State(tmp_path / "none.sqlite", make=False)
    assert not list(tmp_path.iterdir())


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE requests (number INTEGER)")
    database.close()


@pytest.mark.parametrize(
    "prepare",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"no database at all" * 100),
        lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(200)),
        other_database,
    ],
    ids=["folder", "text", "cut", "other tables"],
)
def test_a_file_of_another_kind(tmp_path: Path, prepare: Callable[[Path], object]) -> None:
    path = tmp_path / "state.sqlite"
    prepare(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(PtrTensorError, match=r"the state .*state\.sqlite cannot be used"):
        State(path)
    assert not path.is_file() or path.read_bytes() == before
    assert not path.with_name("state.sqlite-wal").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PtrTensorError, match="No such file"):
        State(tmp_path / "none" / "state.sqlite")


def test_a_disk_that_is_full(state: State) -> None:
    with state.transaction() as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
    state._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PtrTensorError, match="cannot be used: database or disk is full"):
        state.use("x" * 100_000, {"elements": (1, 6)})
    assert state.use("alice", {"elements": (1, 6)}) == ""


def test_a_file_that_nobody_may_write(state: State) -> None:
    state._database.execute("PRAGMA query_only = ON")
    with pytest.raises(PtrTensorError, match="cannot be used: attempt to write a readonly database"):
        state.use("alice", {"elements": (1, 6)})


def test_a_file_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for, and then an error."""
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    first, second = (State(tmp_path / "state.sqlite") for _ in range(2))
    with first.transaction(), pytest.raises(PtrTensorError, match="database is locked"):
        second.use("alice", {"elements": (1, 6)})
    assert second.use("alice", {"elements": (1, 6)}) == ""
    first.close()
    second.close()


def test_texts_that_no_database_takes(state: State) -> None:
    with pytest.raises(PtrTensorError, match="cannot be used"):
        state.use("\ud800", {"elements": (1, 6)})
    assert state.use("a\0b\x1b[31m'; DROP TABLE used", {"elements": (1, 6)}) == ""

"""The policy file: which rule counts, and what is wrong with a file that has no meaning."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrtensor.errors import PolicyError
from ptrtensor.owner.policy import UNITS, Policy, QuotaRule, Rule, Size, bytes_of, read_policy
from ptrtensor.wire.control import Grant, Publication, Quota
from ptrtensor.wire.metadata import TensorMeta

META = TensorMeta((2,), (1,), "float32")


def publication(name: str = "patients", *tags: str, private: bool = True) -> Publication:
    return Publication(name, (f"#{name}", *tags), "", private, "", 0, META)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def read(file: Path, text: str | bytes) -> Policy:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_policy(file)


def refused(file: Path, text: str | bytes) -> str:
    """What is said of this file, after its name."""
    with pytest.raises(PolicyError) as caught:
        read(file, text)
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    return message.split(str(file), 1)[1]


# --- what a file says

EVERYTHING = """
# both kinds of tables, and all that can stand in them
receive_from = ["dora"]

[[rule]]
clients = ["alice", "clinic-*"]
tags = ["#patients"]
operations = ["mean", "sum"]
refused = ["*_backward"]
read = "always"
elements_per_day = 1_000
bytes_per_day = "1.5 KiB"
move_to = ["carol"]

[[rule]]
hidden = true

[[quota]]
clients = ["alice"]
memory = "8 GiB"
objects = 10
sessions = 2
operations_per_day = 100
seconds_per_day = 60
crashes_per_day = 3
"""


def test_everything_that_can_stand_in_a_file(file: Path) -> None:
    policy = read(file, EVERYTHING)
    assert policy == Policy(
        rule=(
            Rule(
                clients=("alice", "clinic-*"),
                tags=("#patients",),
                operations=("mean", "sum"),
                refused=("*_backward",),
                read="always",
                elements_per_day=1000,
                bytes_per_day=Size(1536),
                move_to=("carol",),
            ),
            Rule(hidden=True),
        ),
        quota=(
            QuotaRule(
                clients=("alice",),
                memory=Size(8 * 1024**3),
                objects=10,
                sessions=2,
                operations_per_day=100,
                seconds_per_day=60.0,
                crashes_per_day=3,
            ),
        ),
        receive_from=("dora",),
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\r\n", "rule = []\nquota = []\n", "\ufeff"])
def test_an_empty_file_is_a_policy_that_lets_nothing_leave(file: Path, text: str) -> None:
    assert read(file, text) == Policy()


def test_windows_writes_files_in_its_own_way(file: Path) -> None:
    assert read(file, "\ufeff" + EVERYTHING.replace("\n", "\r\n")) == read(file, EVERYTHING)


# --- what has no meaning


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("rules = 1", 1, "unknown field `rules`"),
        ("\n[[rul]]\n", 2, "unknown field `rul`"),
        ("\nreceive_from = 'dora'\n[[rule]]", 2, "Expected `array`"),
        ("receive_from = ['dora', 1]", 1, "Expected `str`"),
        ("[[rule]]\n\nreceive_from = ['dora']", 3, "unknown field `receive_from`"),
        ("[[rule]]\n\n[[rule]]\nreed = 'ask'", 4, "unknown field `reed`"),
        ("[[rule]]\nread = 'asks'", 2, "Invalid enum value 'asks'"),
        ("[[rule]]\nread = 1", 2, "Expected `str`"),
        ("[[rule]]\nclients = 'alice'", 2, "Expected `array`"),
        ("[[rule]]\nclients = [1]", 2, "Expected `str`"),
        ("[[rule]]\nclients = [\n 'a',\n 1\n]", 2, "Expected `str`"),
        ("[[rule]]\nhidden = 'yes'", 2, "Expected `bool`"),
        ("[rule]\nread = 'ask'", 1, "Expected `array`"),
        ("rule = 1", 1, "Expected `array`"),
        ("rule = [1]", 1, "Expected `object`"),
        ("quota = [{objects = -1}]", 1, "Expected `int` >= 0"),
        ("[[rule]] # first\n[[rule]] # second\nread='always'\nelements_per_day = -1", 4, "Expected `int` >= 0"),
        ("[[rule]]\nread='always'\nelements_per_day = 1.5", 3, "Expected `int | null`"),
        ("[[rule]]\nread='always'\nelements_per_day = true", 3, "Expected `int | null`"),
        ("[[rule]]\nread='always'\nbytes_per_day = -1", 3, "a size is"),
        ("[[rule]]\nread='always'\nbytes_per_day = 1.5", 3, "a size is"),
        ("[[rule]]\nread='always'\nbytes_per_day = true", 3, "a size is"),
        ("[[quota]]\nmemory = '8 GB'", 2, "a size is"),
        ("[[quota]]\nmemory = '-8 GiB'", 2, "a size is"),
        ("[[quota]]\nmemory = ''", 2, "a size is"),
        ("[[quota]]\nmemory = [1]", 2, "a size is"),
        ("[[quota]]\nmemory = 1979-05-27", 2, "a size is"),
        ("[[quota]]\nmemory = '99999999 TiB'", 2, "is more than"),
        (f"[[quota]]\nmemory = '{'9' * 400}'", 2, "is more than"),
        (f"[[quota]]\nmemory = {2**63}", 2, "is more than"),
        (f"[[quota]]\nobjects = {2**63}", 2, "Expected `int` <="),
        (f"[[quota]]\nobjects = {10**30}", 2, "Expected"),
        (f"[[quota]]\nobjects = {'9' * 5000}", 0, "no TOML"),
        ("[[quota]]\ncrashes_per_day = 0", 2, "Expected `int` >= 1"),
        ("[[quota]]\nseconds_per_day = -0.5", 2, "Expected `float` >= 0"),
        ("[[quota]]\nseconds_per_day = nan", 2, "Expected `float` >= 0"),
        ("[[quota]]\nseconds_per_day = inf", 2, "no limit"),
        ("[[quota]]\nseconds_per_day = '5'", 2, "Expected `float | null`"),
        ("[[rule]]\nread = 'ask'\nread = 'ask'\n\n", 3, "no TOML"),
        ("[[rule]]\nread = ask", 2, "no TOML"),
        ("[[rule]\n", 1, "no TOML"),
        ("[[rule]]\nhidden = true\nread = 'ask'", 1, "hidden = true stands alone"),
        ("[[rule]]\nhidden = true\nprivate = false", 1, "hidden = true stands alone"),
        ("[[rule]]\nhidden = true\noperations = []", 1, "hidden = true stands alone"),
        ("[[rule]]\n\n[[rule]]\nprivate = false\nread = 'always'", 3, "private = false stands alone"),
        ("[[rule]]\nprivate = false\nrefused = ['neg']", 1, "private = false stands alone"),
        ("[[rule]]\nread = 'ask'\nelements_per_day = 1", 1, 'and it is "ask" here'),
        ("[[rule]]\nbytes_per_day = 0", 1, 'and it is "never" here'),
        ("[[rule]]\n[[rule]]\nclients = []", 2, "clients = [] is nobody"),
        ("[[quota]]\nclients = []", 1, "clients = [] is nobody"),
        ("[[rule]]\nmove_to = ['dora', '*']", 1, "move_to takes names, and no patterns such as '*'"),
        ("\nreceive_from = ['do?a']", 2, "receive_from takes names, and no patterns such as 'do?a'"),
        ("[[quota]]\nmemory = '1.5'", 2, "a whole number of bytes"),
        ("[[rule]]\nread='always'\nbytes_per_day = '0.4 B'", 3, "a whole number of bytes"),
        ("x = " + "[" * 3000, 0, "no TOML"),
        ("\n[[rule]]\nrefused = ['neg', 'matmul']", 2, "'matmul' is no operation that a worker runs"),
        ("[[rule]]\nrefused = ['linalg_inv']", 1, "'linalg_inv' is no operation"),
        ("[[rule]]\noperations = ['mean()']", 1, "'mean()' is no operation"),
        ("[[rule]]\noperations = ['negg*']", 1, "'negg*' is no operation"),
        ("[[rule]]\n[[rule]]\ntags = ['#a']\nhidden = true", 2, "never counts: rule 1 before it"),
        ("[[rule]]\nclients = ['a', 'b']\n[[rule]]\nclients = ['a']", 3, "never counts: rule 1 before it"),
        ("[[rule]]\ntags = ['#a']\n[[rule]]\ntags = ['#b']\n[[rule]]\ntags = ['#b', '#a']", 5, "rule 1 before it"),
    ],
)
def test_a_mistake_is_named_with_its_line(file: Path, text: str, line: int, reason: str) -> None:
    said = refused(file, text)
    assert not line or f"line {line}" in said, said
    assert reason in said, said


def test_rules_that_count_are_let_through(file: Path) -> None:
    file.write_text(
        "[[rule]]\nclients = ['a*']\ntags = ['#a']\n[[rule]]\nclients = ['ab']\n[[rule]]\ntags = ['#b']\n[[rule]]\n"
        "operations = ['aten::mean', 'linalg_*', 'add_', '_softmax', 'torch_nn::*']\nrefused = ['*_backward', '?eg']\n"
    )
    assert len(read_policy(file).rule) == 4


@pytest.mark.parametrize(
    "content", [b"\xff\xfe[\0", b"# caf\xe9\n", b"\0", b"[[rule]]\nclients = ['\xed\xa0\x80']", b"x\x1b[31m"]
)
def test_what_is_no_text(file: Path, content: bytes) -> None:
    assert "is no TOML" in refused(file, content)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (tmp_path, "Is a directory"), (tmp_path / "none", "No such file"):
        with pytest.raises(PolicyError, match=reason):
            read_policy(path)


KEYS = st.sampled_from([*Rule.__struct_fields__, *QuotaRule.__struct_fields__, "x", "a.b", '"rule"'])
VALUES = st.one_of(
    st.sampled_from(
        ['"ask"', '"always"', '"never"', "true", "false", "nan", "-inf", '"8 GiB"', '"1e9 B"', "1979-05-27"]
    ),
    st.integers().map(str),
    st.integers(min_value=2**60, max_value=2**70).map(str),
    st.floats().map(str),
    st.text(alphabet='ab*[]!?-\\"\n#é\0', max_size=6).map(lambda text: f'"{text}"'),
    st.sampled_from(
        ["[]", "['alice']", "['*', '[!']", "[['a']]", "[1]", "{}", "{a = 1}", "'#patients'", "['#patients']"]
    ),
)
LINES = st.one_of(
    st.sampled_from(
        ["[[rule]]", "[[quota]]", "[rule]", "[quota]", "[[rule.x]]", "# no", "", "[[ rule ]]", "]", "\ufeff"]
    ),
    st.builds("{} = {}".format, KEYS, VALUES),
)


@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_file_is_a_policy_or_named_as_none(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    """What is one can be asked everything."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(end.join(lines).encode())
    try:
        policy = read_policy(path)
    except PolicyError as error:
        assert "any.toml" in str(error) and ("line " in str(error) or "no TOML" in str(error))
        return
    shown = policy.shown_to("alice", [publication()])
    assert all(isinstance(policy.grant("alice", one.tags), Grant) for one in shown)
    quota = policy.session_quota("alice", Quota(None, 100))
    assert quota.objects is not None and 0 <= quota.objects <= 100
    assert (quota.memory or 0) < 2**63
    policy.idle_rules([publication()])


# --- sizes


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (0, 0),
        (12, 12),
        ("0", 0),
        ("12", 12),
        ("12B", 12),
        ("12 B", 12),
        ("1KiB", 1024),
        ("1.5 KiB", 1536),
        ("2 MiB", 2 * 1024**2),
        ("8 GiB", 8 * 1024**3),
        ("1 TiB", 1024**4),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_size(size: object, count: int) -> None:
    assert bytes_of(size) == count


@pytest.mark.parametrize(
    "size", ["1 kb", "1 GB", "GiB", " 1", "1 ", "1  GiB", "1\u00a0GiB", "-1", "1e3", "1.", ".5", "١", "1\n", None, 1.0]
)
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(ValueError, match="a size is a number of bytes"):
        bytes_of(size)


def test_units_are_powers_of_1024() -> None:
    assert [bytes_of(f"1 {unit}") for unit in list(UNITS)[2:]] == [1024**power for power in range(1, 5)]


# --- which rule counts


@pytest.mark.parametrize(
    ("rule", "client", "tags", "fits"),
    [
        (Rule(), "anybody", (), True),
        (Rule(clients=("alice",)), "alice", (), True),
        (Rule(clients=("alice",)), "Alice", (), False),
        (Rule(clients=("a*",)), "alice", (), True),
        (Rule(clients=("?lice", "bob")), "bob", (), True),
        (Rule(clients=()), "alice", (), False),
        (Rule(tags=("#a",)), "alice", ("#a", "#b"), True),
        (Rule(tags=("#a", "#b")), "alice", ("#a",), False),
        (Rule(tags=("#a",)), "alice", (), False),
    ],
)
def test_whether_a_rule_fits(rule: Rule, client: str, tags: tuple[str, ...], fits: bool) -> None:
    assert rule.fits(client, tags) is fits


def test_the_first_rule_that_fits_counts() -> None:
    policy = Policy(
        rule=(Rule(clients=("carol",), read="always"), Rule(tags=("#scan",), refused=("neg",)), Rule(read="ask"))
    )
    said = {
        (client, one.name): policy.grant(client, one.tags)
        for client in ("alice", "carol")
        for one in (publication("left", "#scan"), publication("patients"))
    }
    assert said["alice", "left"] == Grant("never", False, ("*",), ("neg",), "rule 2 of its owner's policy")
    assert said["alice", "patients"] == Grant("ask", rule="rule 3 of its owner's policy")
    assert said["carol", "left"] == said["carol", "patients"] == Grant("always", rule="rule 1 of its owner's policy")
    assert Policy().grant("alice", ["#patients"]) == Grant(rule="without a rule its owner's policy")


def test_limits_of_a_day_make_a_grant_limited() -> None:
    for rule in Rule(read="always", elements_per_day=0), Rule(read="always", bytes_per_day=Size(1)):
        assert Policy(rule=(rule,)).grant("alice", ["#patients"]).limited


def test_what_a_client_may_know_of() -> None:
    policy = Policy(rule=(Rule(tags=("#staff",), hidden=True), Rule(tags=("#public",), private=False)))
    everything = [publication("staff"), publication("public"), publication("patients"), publication("x", private=False)]
    shown = policy.shown_to("alice", everything)
    assert [(one.name, one.private) for one in shown] == [("public", False), ("patients", True), ("x", False)]


def test_quotas() -> None:
    policy = Policy(
        quota=(
            QuotaRule(clients=("alice",), memory=Size(10), objects=5, sessions=1),
            QuotaRule(clients=("c*",), operations_per_day=0),
            QuotaRule(seconds_per_day=0.5),
        )
    )
    assert policy.session_quota("alice", Quota(None, 100)) == Quota(10, 5, False)
    assert policy.session_quota("alice", Quota(4, 3)) == Quota(4, 3, False)
    assert policy.session_quota("carol", Quota(4, None)) == Quota(4, None, True)
    assert policy.session_quota("bob", Quota()) == Quota(None, None, True)
    assert Policy().session_quota("bob", Quota(1, 2)) == Quota(1, 2, False)
    assert policy.quota_for("alice").sessions == 1 and policy.quota_for("bob").seconds_per_day == 0.5


def test_rules_that_fit_nothing_are_named() -> None:
    policy = Policy(rule=(Rule(tags=("#patients",)), Rule(tags=("#patient",)), Rule(), Rule(tags=("#patients", "#x"))))
    assert policy.idle_rules([publication()]) == [2, 4]
    assert policy.idle_rules([]) == [1, 2, 3, 4]


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("rule", [True, False, None])
def test_the_rule_that_fits_says_whether_it_is_private_and_else_whoever_published_it(
    private: bool, rule: bool | None
) -> None:
    rules = () if rule is None else (Rule(tags=("#x",), private=rule),)
    (shown,) = Policy(rule=(Rule(tags=("#other",)), *rules)).shown_to("alice", [publication("x", private=private)])
    assert shown.private is (private if rule is None else rule)

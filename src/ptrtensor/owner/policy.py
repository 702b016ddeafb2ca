"""The policy file: who may do what with which published data.

The first rule that fits counts. Where none does, a client can compute, and nothing leaves.
"""

import math
import re
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from ptrtensor.errors import PolicyError
from ptrtensor.wire.control import Grant, Publication, Quota
from ptrtensor.worker.distant_owner import is_one_of, is_refused
from ptrtensor.worker.surface import runnable

UNITS: Final = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
SIZE: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?: ?(B|[KMGT]iB))?")

MOST: Final = 2**63 - 1
"""What the system's limits, the messages to a session and the state can hold."""

HEADER: Final = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
KEY: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
PLACE: Final = re.compile(r"`\$\.(\w+)(?:\[(\d+)\](?:\.(\w+))?)?")
UNKNOWN: Final = re.compile(r"unknown field `(\w+)`")

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Texts = tuple[str, ...]


class Size(int):
    """A number of bytes; in the file a number, or a text such as "8 GiB"."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What clients may do with publications that have all of these tags."""

    clients: Texts = ("*",)
    tags: Texts = ()
    hidden: bool = False
    private: bool = True
    operations: Texts = ("*",)
    refused: Texts = ()
    read: Literal["never", "ask", "always"] = "never"
    elements_per_day: Count | None = None
    bytes_per_day: Size | None = None
    move_to: Texts = ()

    def fits(self, client: str, tags: Sequence[str]) -> bool:
        return set(self.tags) <= set(tags) and any(fnmatchcase(client, pattern) for pattern in self.clients)

    @property
    def is_limited(self) -> bool:
        """Whether it says how much may be read in a day."""
        return self.elements_per_day is not None or self.bytes_per_day is not None


class QuotaRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one client may use: memory and objects in each session, operations and seconds in all of them together.

    Also how many of its sessions may crash.
    """

    clients: Texts = ("*",)
    memory: Size | None = None
    objects: Count | None = None
    sessions: Count | None = None
    operations_per_day: Count | None = None
    seconds_per_day: Annotated[float, msgspec.Meta(ge=0)] | None = None
    crashes_per_day: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 5


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is not in it is not allowed; the empty policy lets a client compute, and nothing leave."""

    rule: tuple[Rule, ...] = ()
    quota: tuple[QuotaRule, ...] = ()
    receive_from: Texts = ()

    def rule_for(self, client: str, tags: Sequence[str]) -> tuple[int, Rule]:
        """The rule that counts, and its number from 1; 0 where none fits."""
        for number, rule in enumerate(self.rule, 1):
            if rule.fits(client, tags):
                return number, rule
        return 0, Rule()

    def grant(self, client: str, tags: Sequence[str]) -> Grant:
        """What a session's process has to know of the rule that counts."""
        number, rule = self.rule_for(client, tags)
        named = f"rule {number} of its owner's policy" if number else "without a rule its owner's policy"
        return Grant(rule.read, rule.is_limited, rule.operations, rule.refused, named)

    def shown_to(self, client: str, publications: Sequence[Publication]) -> tuple[Publication, ...]:
        """What this client may know of, private or not as the rule says; where none fits, as it was published."""
        shown = []
        for publication in publications:
            number, rule = self.rule_for(client, publication.tags)
            if not rule.hidden:
                private = rule.private if number else publication.private
                shown.append(msgspec.structs.replace(publication, private=private))
        return tuple(shown)

    def quota_for(self, client: str) -> QuotaRule:
        fitting = (rule for rule in self.quota if any(fnmatchcase(client, pattern) for pattern in rule.clients))
        return next(fitting, QuotaRule())

    def session_quota(self, client: str, most: Quota) -> Quota:
        """What one session of this client may use, within what the server grants anybody."""
        rule = self.quota_for(client)
        return Quota(
            least(rule.memory, most.memory),
            least(rule.objects, most.objects),
            rule.operations_per_day is not None or rule.seconds_per_day is not None,
        )

    def idle_rules(self, publications: Sequence[Publication]) -> list[int]:
        """The numbers of rules with tags that nothing published has: most likely a slip."""
        return [
            number
            for number, rule in enumerate(self.rule, 1)
            if not any(set(rule.tags) <= set(publication.tags) for publication in publications)
        ]


def least(*limits: int | None) -> int | None:
    return min((int(limit) for limit in limits if limit is not None), default=None)


def read_policy(path: Path) -> Policy:
    """The policy in a file.

    :raises PolicyError: it cannot be read, or the line that has no meaning, and why.
    """
    try:
        text = path.read_text("utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise PolicyError(f"the policy {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the policy {path} is no TOML: {error}") from error
    try:
        policy = msgspec.convert(document, Policy, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise PolicyError(f"{path}, {place_of(str(error), text)}: {error}") from error
    for number, quota in enumerate(policy.quota):
        if quota.seconds_per_day == math.inf:
            where = line_of(text, "quota", number, "seconds_per_day")
            raise PolicyError(f"{path}, line {where}: leave seconds_per_day out where there is no limit")
    for number, rule in enumerate(policy.rule):
        if reason := contradiction(rule) or misnomer(rule) or eclipse(rule, policy.rule[:number]):
            raise PolicyError(f"{path}, line {line_of(text, 'rule', number, '')}: {reason}")
    for number, quota in enumerate(policy.quota):
        if reason := nobody(quota.clients):
            raise PolicyError(f"{path}, line {line_of(text, 'quota', number, '')}: {reason}")
    if reason := pattern(policy.receive_from, "receive_from"):
        raise PolicyError(f"{path}, line {line_of(text, 'receive_from', 0, '')}: {reason}")
    return policy


def nobody(clients: Texts) -> str:
    return "" if clients else "clients = [] is nobody: leave the table out, or clients where it is for all"


def pattern(workers: Texts, key: str) -> str:
    found = [name for name in workers if set(name) & set("*?[]")]
    return f"{key} takes names, and no patterns such as {found[0]!r}: name each worker" if found else ""


def contradiction(rule: Rule) -> str:
    """What of a rule could not mean anything; empty where all of it does."""
    says_who_reads = (
        rule.read != "never" or rule.is_limited or rule.move_to or rule.refused or rule.operations != ("*",)
    )
    if rule.hidden and (says_who_reads or not rule.private):
        return "hidden = true stands alone: nobody can do anything with what he cannot find"
    if not rule.private and says_who_reads:
        return "private = false stands alone: what is not private is read, moved and computed with as everybody likes"
    if rule.is_limited and rule.read != "always":
        return f'elements_per_day and bytes_per_day belong to read = "always", and it is "{rule.read}" here'
    return ""


def misnomer(rule: Rule) -> str:
    """What it names that is nothing; empty where all of it is something. Nobody must believe in a rule that is none."""
    if reason := nobody(rule.clients) or pattern(rule.move_to, "move_to"):
        return reason
    for operation, fits in (*zip(rule.operations, repeat(is_one_of)), *zip(rule.refused, repeat(is_refused))):
        if operation != "*" and not any(fits(op, (operation,)) for op in runnable()):
            return (
                f"{operation!r} is no operation that a worker runs. One that is made of others, as matmul is of mm and "
                "bmm, is named by these: its own name never arrives"
            )
    return ""


def eclipse(rule: Rule, earlier: Sequence[Rule]) -> str:
    """Which of the rules before it leaves nothing to it; empty where none does."""
    for number, other in enumerate(earlier, 1):
        if set(other.tags) <= set(rule.tags) and ("*" in other.clients or set(rule.clients) <= set(other.clients)):
            return (
                f"this rule never counts: rule {number} before it fits whatever this one fits. Put it before that one"
            )
    return ""


def decode(kind: type, value: Any) -> Any:
    """What TOML has no type for."""
    if kind is not Size:
        raise NotImplementedError(kind)
    return Size(bytes_of(value))


def bytes_of(value: object) -> int:
    """A size in bytes.

    :raises ValueError: it is none.
    """
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    found = SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f'a size is a number of bytes or a text such as "8 GiB", not {value!r}')
    whole, part, unit = found[1], found[2] or "", found[3] or ""
    if part.strip("0") and UNITS[unit] == 1:
        raise ValueError(f"a size is a whole number of bytes, or of KiB, MiB, GiB or TiB, not {value!r}")
    # Not by way of a float, which has no room for it.
    size = int(Decimal(f"{whole}.{part}") * UNITS[unit]) if len(whole) < len(str(MOST)) + 1 else MOST + 1
    if size > MOST:
        raise ValueError(f"a size of {text[:40]} is more than {MOST} bytes")
    return size


def place_of(error: str, text: str) -> str:
    """The line that an error of msgspec is about."""
    unknown = UNKNOWN.search(error)
    field = unknown[1] if unknown else ""
    found = PLACE.search(error)
    if found is None:
        return f"line {line_of(text, field, 0, '')}"
    return f"line {line_of(text, found[1], int(found[2] or 0), found[3] or field)}"


def line_of(text: str, table: str, number: int, key: str) -> int:
    """The line of a key in the table of that name and number, from 0; without a key, that of its header."""
    seen, header = -1, 1
    for line, content in enumerate(text.splitlines(), 1):
        if found := HEADER.match(content):
            if found[1] == table:
                seen, header = seen + 1, line if seen + 1 == number else header
            elif seen == number:
                break
        elif (found := KEY.match(content)) and found[1] == (key or table) and (seen == number or not key):
            return line
        if seen > number:
            break
    return header

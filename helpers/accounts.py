"""Who a container's process runs as: names become ids by the accounts of its root file system.

Whoever made that file system wrote its accounts. So a child process reads them that has given up
every right before, and what it answers is checked as any other input is.
"""

import errno
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torpor import confinement, inroot, regular_file, values
from torpor.errors import DefinitionError
from torpor.values import ID_MAX, WrongError
from torpor.yaml_tree import Node, Sequence, shown

ACCOUNTS_LIMIT_BYTES = 1 << 20
GROUPS_MAX = 1024  # of one process; Linux has 65536, NGROUPS_MAX in linux/limits.h

_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,254}\$?")
_PASSWD, _GROUP = "passwd", "group"
_BY_USER, _BY_GROUP, _BY_GROUPS = 0, 1, 2  # what asks for an account; the third and all that follow

_IDS = re.compile(rb"ids ([0-9]{1,10}) ([0-9]{1,10}) ((?:[0-9]{1,10},)*)")
_FAULT = re.compile(rb"([a-z]{1,10}) (passwd|group) ([0-9]{1,4}) ([0-9]{1,7})")
_PROBLEMS = {
    "missing": "{who} is not in {path}",
    "unusable": f"{{path}}:{{detail}}: the ids of {{who}} are not numbers from 0 to {ID_MAX}",
    "crowded": f"{{path}} makes {{who}} a member of more than {GROUPS_MAX} groups",
    "large": f"{{path}} is larger than {ACCOUNTS_LIMIT_BYTES} bytes",
    "unreadable": "cannot read {path}: {reason}",
}

Blame = Callable[[str, str, str], DefinitionError]


@dataclass(frozen=True)
class User:
    """Who runs the container's first process; names are those of the rootfs, not yet looked up."""

    user: int | str
    group: int | str | None = None


@dataclass(frozen=True)
class Ids:
    """What the kernel is told: groups are the supplementary ones, sorted, each once."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fault:
    """Why there is no id, in words and numbers that the reader's answer may consist of.

    wanted is 0 for the user, 1 for its group, 2 and more for one of the other groups; detail is a
    line of the file, or an errno where that is unreadable.
    """

    kind: str
    file: str
    wanted: int = _BY_USER
    detail: int = 0


class FaultError(Exception):
    """The account that is asked for is not there or of no use."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def parse_user(node: Node) -> User:
    """UID, UID:GID, NAME or NAME:GROUP."""
    user, colon, group = values.text(node).partition(":")
    one = functools.partial(account, "Write UID, UID:GID, NAME or NAME:GROUP.", node.line)
    return User(one(user), one(group) if colon else None)


def parse_groups(node: Node) -> tuple[int | str, ...]:
    """Ids and names of groups: a list, or a single one."""
    if isinstance(node, Sequence) and len(node.items) > GROUPS_MAX:
        raise WrongError(f"names {len(node.items)} groups", f"At most {GROUPS_MAX} are possible.")
    hint = "Write GID or GROUP, or a list of them."
    return values.list_of(lambda item: account(hint, item.line, values.text(item)), node)


def account(hint: str, line: int, words: str) -> int | str:
    """The id or the name that words are. Raises WrongError with the hint, if they are neither."""
    if words.isascii() and words.isdigit():
        number = values.number(words)
        if number is None or number > ID_MAX or str(number) != words:
            problem = f"'{shown(words)}' is not an id"
            raise WrongError(problem, f"Ids go from 0 to {ID_MAX}, in decimal.", line)
        return number
    if not _NAME.fullmatch(words):
        raise WrongError(f"'{shown(words)}' is neither an id nor a name", hint, line)
    return words


def process_user(
    root: str, user: User, groups: tuple[int | str, ...], blame: Blame
) -> dict[str, Any]:
    """process.user of an OCI configuration for user, who is in groups too; root is its rootfs.

    A user without a group has that of its account and all that list it; a uid without an account
    has group 0 (as in podman and runc). Numbers are not looked up. The group is among
    additionalGids too: a program that changes its group must not lose it (CVE-2022-2989).

    Raises what blame makes of a key, a problem and a hint.
    """
    ids = _spelled_out(user, groups) or _looked_up(root, user, groups, blame)
    return {"uid": ids.uid, "gid": ids.gid, "additionalGids": sorted({ids.gid, *ids.groups})}


def _spelled_out(user: User, groups: tuple[int | str, ...]) -> Ids | None:
    numbers = [gid for gid in groups if isinstance(gid, int)]
    if isinstance(user.user, str) or not isinstance(user.group, int) or len(numbers) < len(groups):
        return None
    return Ids(user.user, user.group, tuple(sorted(set(numbers))))


def _looked_up(root: str, user: User, groups: tuple[int | str, ...], blame: Blame) -> Ids:
    key = "groups" if isinstance(user.user, int) and isinstance(user.group, int) else "user"
    descriptors: dict[str, int] = {}
    try:
        for file in _files(user, groups):
            _open(root, file, descriptors, functools.partial(blame, key))
        work = functools.partial(_answer, descriptors, user, groups)
        answer = confinement.run(work, tuple(descriptors.values())) if descriptors else work()
        return _checked(answer, user, groups)
    except FaultError as error:
        raise _explained(key, root, (user.user, user.group, *groups), error.fault, blame) from None
    except confinement.ConfinedError as error:
        where = " and ".join(f"{root}/etc/{file}" for file in descriptors)
        raise blame(key, f"{where}: not read: the process that reads it {error}", "") from None
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _files(user: User, groups: tuple[int | str, ...]) -> Iterator[str]:
    """The files that hold what is not a number yet."""
    if isinstance(user.user, str) or user.group is None:
        yield _PASSWD
    if not isinstance(user.group, int) or any(isinstance(group, str) for group in groups):
        yield _GROUP


def _open(
    root: str, file: str, descriptors: dict[str, int], blame: Callable[[str, str], DefinitionError]
) -> None:
    """Add the descriptor of a file; one that is not there is as good as empty."""
    try:
        descriptors[file] = inroot.open_in_root(root, f"etc/{file}")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        problem = f"cannot read {root}/etc/{file}: {error.strerror}"
        raise blame(problem, "Names are looked up there. Numbers need no file.") from error


def _explained(
    key: str, root: str, asked: tuple[int | str | None, ...], fault: Fault, blame: Blame
) -> DefinitionError:
    if fault.wanted >= _BY_GROUPS:
        key = "groups"
    problem = _PROBLEMS[fault.kind].format(
        who=f"{'group' if fault.wanted else 'user'} '{asked[fault.wanted]}'",
        path=f"{root}/etc/{fault.file}",
        detail=fault.detail,
        reason=os.strerror(fault.detail),
    )
    numbers = "GID" if key == "groups" else "UID:GID"
    verb = "Add" if fault.kind == "missing" else "Correct"
    return blame(key, problem, f"{verb} it there, or give numbers: {key}: {numbers}")


def _answer(descriptors: Mapping[str, int], user: User, groups: tuple[int | str, ...]) -> bytes:
    """What the process without rights says: ids, or why there are none."""
    try:
        ids = find(_read(descriptors, _PASSWD), _read(descriptors, _GROUP), user, groups)
    except FaultError as error:
        fault = error.fault
        return f"{fault.kind} {fault.file} {fault.wanted} {fault.detail}".encode()
    return f"ids {ids.uid} {ids.gid} {''.join(f'{gid},' for gid in ids.groups)}".encode()


def _read(descriptors: Mapping[str, int], file: str) -> bytes:
    if file not in descriptors:
        return b""
    try:
        return regular_file.read_fd(descriptors[file], ACCOUNTS_LIMIT_BYTES)[0]
    except OSError as error:
        kind = "large" if error.errno == errno.EFBIG else "unreadable"
        raise FaultError(Fault(kind, file, detail=error.errno or 0)) from error


def _checked(answer: bytes, user: User, groups: tuple[int | str, ...]) -> Ids:
    """The ids of an answer that can be one. Raises FaultError; ConfinedError for any other."""
    if match := _FAULT.fullmatch(answer):
        fault = Fault(match[1].decode(), match[2].decode(), int(match[3]), int(match[4]))
        if fault.kind in _PROBLEMS and fault.wanted < _BY_GROUPS + len(groups):
            raise FaultError(fault)
    if match := _IDS.fullmatch(answer):
        gids = map(int, match[3].split(b",")[:-1])
        ids = Ids(int(match[1]), int(match[2]), tuple(gids))
        if _is_possible(ids, user, groups):
            return ids
    raise confinement.ConfinedError("gave an answer that is none")


def _is_possible(ids: Ids, user: User, groups: tuple[int | str, ...]) -> bool:
    """Whether all ids are ids, and those that the definition spells out are unchanged."""
    return (
        max(ids.uid, ids.gid, *ids.groups) <= ID_MAX
        and (isinstance(user.user, str) or user.user == ids.uid)
        and (not isinstance(user.group, int) or user.group == ids.gid)
        and {gid for gid in groups if isinstance(gid, int)} <= {*ids.groups}
    )


def find(passwd: bytes, group: bytes, user: User, groups: tuple[int | str, ...]) -> Ids:
    """The ids of user by the content of passwd(5) and group(5) files; groups are added to its own.

    Raises FaultError. Of two entries of a name or a uid the first counts, as in getpwnam(3).
    """
    name, uid, account_gid = _find_user(passwd, user.user)
    wanted = list(enumerate(groups, _BY_GROUPS))
    if user.group is not None:
        wanted.append((_BY_GROUP, user.group))
    gids = dict(_find_groups(group, wanted))
    gid = gids.pop(_BY_GROUP, account_gid)
    found = set(gids.values())
    if user.group is None and name is not None:
        found.update(_memberships(group, name))
    if len(found) > GROUPS_MAX:
        raise FaultError(Fault("crowded", _GROUP))
    return Ids(uid, gid, tuple(sorted(found)))


def _find_user(passwd: bytes, wanted: int | str) -> tuple[bytes | None, int, int]:
    """Name, uid and gid; a uid that has no account stands for itself, with gid 0."""
    name = wanted.encode() if isinstance(wanted, str) else None
    for line, fields in entries(passwd, 4):
        if fields[0] == name or (name is None and _id(fields[2]) == wanted):
            uid, gid = _id(fields[2]), _id(fields[3])
            if uid is None or gid is None:
                raise FaultError(Fault("unusable", _PASSWD, detail=line))
            return fields[0], uid, gid
    if isinstance(wanted, str):
        raise FaultError(Fault("missing", _PASSWD))
    return None, wanted, 0


def _find_groups(group: bytes, wanted: list[tuple[int, int | str]]) -> Iterator[tuple[int, int]]:
    """The gid of each place; a number stands for itself."""
    names = {name.encode() for _, name in wanted if isinstance(name, str)}
    found: dict[bytes, tuple[int, bytes]] = {}
    for line, fields in entries(group, 3) if names else ():
        if fields[0] in names:
            found.setdefault(fields[0], (line, fields[2]))
    for place, name in wanted:
        if isinstance(name, int):
            yield place, name
        elif name.encode() not in found:
            raise FaultError(Fault("missing", _GROUP, place))
        else:
            line, digits = found[name.encode()]
            yield place, _usable(digits, Fault("unusable", _GROUP, place, line))


def _memberships(group: bytes, name: bytes) -> Iterator[int]:
    """The gids of the groups that list name as a member."""
    for line, fields in entries(group, 4):
        if name in map(bytes.strip, fields[3].split(b",")):
            yield _usable(fields[2], Fault("unusable", _GROUP, detail=line))


def entries(content: bytes, least_fields: int) -> Iterator[tuple[int, list[bytes]]]:
    """Line numbers and fields of a passwd(5) or group(5) file, those of its comments left out.

    So are lines with fewer fields, and those that begin with + or -: they ask for NIS, see
    nsswitch.conf(5). The fifth field holds all that follows, too.
    """
    for number, line in enumerate(content.split(b"\n"), 1):
        fields = line.strip().split(b":", 4)
        if len(fields) >= least_fields and not fields[0].startswith((b"#", b"+", b"-")):
            yield number, fields


def _id(digits: bytes) -> int | None:
    is_number = digits.isdigit() and len(digits) <= len(str(ID_MAX))
    return number if is_number and (number := int(digits)) <= ID_MAX else None


def _usable(digits: bytes, fault: Fault) -> int:
    if (number := _id(digits)) is None:
        raise FaultError(fault)
    return number

"""Profiles of system calls, seccomp(2), in two forms: the OCI's own, and that of docker and podman.

The second one adds conditions to the first: on the machine, its kernel, and the container's
capabilities. What is rendered is the first one, for this machine and this container.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torpor import regular_file, strict_json, values
from torpor.errors import DefinitionError
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

SIZE_LIMIT_BYTES = 1 << 20
_UNCONFINED = "unconfined"
_ERRNO_MAX = (1 << 16) - 1  # SECCOMP_RET_DATA of linux/seccomp.h
_ARGUMENT_MAX = (1 << 64) - 1
_INDEX_MAX = 5
_NATIVE = {  # machine of uname(2) → the names of libseccomp, of the specification
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "x86": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "arm": ("arm", "SCMP_ARCH_ARM"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
    "mips": ("mips", "SCMP_ARCH_MIPS"),
    "mipsel": ("mipsel", "SCMP_ARCH_MIPSEL"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "mips64el": ("mipsel64", "SCMP_ARCH_MIPSEL64"),
    "ppc": ("ppc", "SCMP_ARCH_PPC"),
    "ppc64": ("ppc64", "SCMP_ARCH_PPC64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390": ("s390", "SCMP_ARCH_S390"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}
_ARCHITECTURES = (
    *(name for _, name in _NATIVE.values()),
    "SCMP_ARCH_X32",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL64N32",
)
_ACTIONS = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
_OPERATORS = (
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
)
_FLAGS = (
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
)
_PROFILE_KEYS = (
    "defaultAction",
    "defaultErrnoRet",
    "defaultErrno",
    "architectures",
    "archMap",
    "flags",
    "listenerPath",
    "listenerMetadata",
    "syscalls",
)
_RULE_KEYS = (
    "name",
    "names",
    "action",
    "errnoRet",
    "errno",
    "args",
    "comment",
    "includes",
    "excludes",
)
_ARGUMENT_KEYS = ("index", "value", "valueTwo", "op")
_CONDITION_KEYS = ("arches", "caps", "minKernel")
_MAP_KEYS = ("architecture", "subArchitectures")


# What a program may use beside the machine's own system calls: those of docker's profile.
_ARCH_MAP = [
    {
        "architecture": "SCMP_ARCH_X86_64",
        "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    },
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]},
]


@dataclass(frozen=True)
class Seccomp:
    """What a definition says; a profile of None is that all system calls are allowed."""

    profile: str | None


@dataclass(frozen=True)
class Facts:
    """What the conditions of a profile ask.

    machine is uname(2)'s, with the endianness of MIPS as in mips64el; capabilities are CAP_... of
    the container's bounding set.
    """

    machine: str
    kernel: tuple[int, int]
    capabilities: Collection[str]


def parse(node: Node) -> Seccomp:
    """The word unconfined, or the absolute path of a profile. Raises WrongError."""
    if (words := values.text(node)) == _UNCONFINED:
        return Seccomp(None)
    if not words.startswith("/"):
        hint = "Write unconfined, or the absolute path of a profile."
        raise WrongError(f"'{shown(words)}' is not a seccomp profile", hint, node.line)
    return Seccomp(values.path(node))


def facts(capabilities: Collection[str]) -> Facts:
    """Those of this machine, for a container with these capabilities."""
    system = os.uname()
    machine = system.machine
    if machine.startswith("mips") and sys.byteorder == "little":
        machine += "el"
    return Facts(machine, kernel_version(system.release), capabilities)


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 12) for 6.12.3-amd64; (0, 0) for what is no release of Linux."""
    match = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def read(path: str) -> bytes:
    """The text of the profile at path. Raises DefinitionError, which names it."""
    try:
        return regular_file.read(path, SIZE_LIMIT_BYTES)[0]
    except OSError as error:
        problem = f"{path}: cannot read the seccomp profile: {error.strerror}"
        raise DefinitionError(problem) from error


def section(path: str, content: bytes, machine: Facts) -> dict[str, Any]:
    """linux.seccomp of the profile in content, in either form; path is for messages.

    Raises DefinitionError, which names the path and the key.
    """
    try:
        return _section(_Object("", _parse(content), _PROFILE_KEYS), machine)
    except _ProfileError as error:
        raise DefinitionError(f"{path}: {error}", error.hint) from error


def all_but(rules: Iterable[Mapping[str, Any]], machine: Facts) -> dict[str, Any]:
    """linux.seccomp that allows what no rule speaks of."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": _ARCH_MAP,
        "syscalls": [dict(rule) for rule in rules],
    }
    return _section(_Object("", profile, _PROFILE_KEYS), machine)


class _ProfileError(Exception):
    """What is wrong with which key of a profile."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


class _Object:
    """A JSON object of known keys, and its place in the profile; null is the same as no key."""

    def __init__(self, where: str, value: object, keys: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise _ProfileError(f"{where or 'the profile'} is not an object")
        self._where = f"{where}." if where else ""
        self._values = {key: item for key, item in value.items() if item is not None}
        for key in self._values:
            if key not in keys:
                # An unknown key may be what makes a rule stricter, so it is not skipped.
                self.fail(shown(key), "is unknown", values.nearest(key, keys))

    def fail(self, key: str, problem: str, hint: str = "") -> NoReturn:
        raise _ProfileError(f"{self._where}{key} {problem}", hint)

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str) -> str:
        if not isinstance(found := self._values.get(key, ""), str):
            self.fail(key, "is not text")
        return found

    def word(self, key: str, allowed: tuple[str, ...]) -> str:
        if not self.has(key):
            self.fail(key, "is missing", f"It is one of {', '.join(allowed)}.")
        self._require_word(key, found := self.text(key), allowed)
        return found

    def number(self, key: str, maximum: int) -> int | None:
        found = self._values.get(key)
        if found is None:
            return None
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= maximum:
            self.fail(key, f"is not a whole number from 0 to {maximum}")
        return found

    def texts(self, key: str, allowed: tuple[str, ...] = ()) -> list[str]:
        found = self._list(key)
        for index, item in enumerate(found):
            if not isinstance(item, str) or not item:
                self.fail(f"{key}[{index}]", "is not text")
            if allowed:
                self._require_word(f"{key}[{index}]", item, allowed)
        return found

    def child(self, key: str, keys: tuple[str, ...]) -> "_Object":
        return _Object(self._where + key, self._values.get(key, {}), keys)

    def children(self, key: str, keys: tuple[str, ...]) -> "Iterator[_Object]":
        for index, item in enumerate(self._list(key)):
            yield _Object(f"{self._where}{key}[{index}]", item, keys)

    def _list(self, key: str) -> list[Any]:
        if not isinstance(found := self._values.get(key, []), list):
            self.fail(key, "is not a list")
        return found

    def _require_word(self, key: str, word: str, allowed: tuple[str, ...]) -> None:
        if word not in allowed:
            problem = f"is '{shown(word)}', which runc does not know"
            self.fail(key, problem, f"Known: {', '.join(allowed)}.")


def _parse(content: bytes) -> object:
    try:
        return strict_json.parse(content)
    except ValueError as error:
        raise _ProfileError(f"is not JSON: {error}") from error


def _section(profile: _Object, machine: Facts) -> dict[str, Any]:
    default = profile.word("defaultAction", _ACTIONS)
    rules = [_rule(rule, machine) for rule in profile.children("syscalls", _RULE_KEYS)]
    optional = {
        "defaultErrnoRet": _errno(profile, "defaultErrno", "defaultErrnoRet"),
        "architectures": _architectures(profile, machine) or None,
        # runc takes a missing list for its default and an empty one for no flags.
        "flags": profile.texts("flags", _FLAGS) if profile.has("flags") else None,
        "listenerPath": profile.text("listenerPath") or None,
        "listenerMetadata": profile.text("listenerMetadata") or None,
        "syscalls": [rule for rule in rules if rule] or None,
    }
    return {"defaultAction": default} | _given(optional)


def _given(optional: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in optional.items() if value is not None}


def _architectures(profile: _Object, machine: Facts) -> list[str]:
    """Of a map, the entry of machine; none leaves it to libseccomp, which takes the machine's.

    Other machines' entries may well be newer than runc.
    """
    listed = profile.texts("architectures", _ARCHITECTURES)
    _, native = _native(machine)
    chosen: list[str] = []
    for entry in profile.children("archMap", _MAP_KEYS):
        if listed:
            profile.fail("archMap", "and architectures exclude each other", "Remove one.")
        main = entry.text("architecture")
        others = entry.texts("subArchitectures", _ARCHITECTURES if main == native else ())
        chosen = chosen or ([main, *others] if main == native else [])
    return listed or chosen


def _native(machine: Facts) -> tuple[str, str]:
    """Its names as in _NATIVE, of which arm and x86 have many in uname(2)."""
    family = "arm" if machine.machine.startswith("arm") else machine.machine
    family = "x86" if re.fullmatch("i[3-6]86", family) else family
    return _NATIVE.get(family, ("", ""))


def _rule(rule: _Object, machine: Facts) -> dict[str, Any] | None:
    """The rule for machine, None where it does not apply or names nothing."""
    names = _names(rule)
    rule.text("comment")
    result = {"names": names, "action": rule.word("action", _ACTIONS)} | _given(
        {
            "errnoRet": _errno(rule, "errno", "errnoRet"),
            "args": [_argument(arg) for arg in rule.children("args", _ARGUMENT_KEYS)] or None,
        }
    )
    return result if _applies(rule, machine) and names else None


def _names(rule: _Object) -> list[str]:
    """The system calls of rule, in either spelling."""
    name, names = rule.text("name"), rule.texts("names")
    if name and names:
        rule.fail("name", "and names exclude each other", "Remove one.")
    if not name and not rule.has("names"):
        rule.fail("names", "is missing", "It lists system calls.")
    return [name] if name else names


def _argument(arg: _Object) -> dict[str, Any]:
    for key in ("index", "value"):
        if not arg.has(key):
            arg.fail(key, "is missing")
    return {
        "index": arg.number("index", _INDEX_MAX),
        "value": arg.number("value", _ARGUMENT_MAX),
        "valueTwo": arg.number("valueTwo", _ARGUMENT_MAX) or 0,
        "op": arg.word("op", _OPERATORS),
    }


def _errno(parent: _Object, name_key: str, number_key: str) -> int | None:
    """The error number; its name, or the number as text, wins over the number."""
    number = parent.number(number_key, _ERRNO_MAX)
    if not (name := parent.text(name_key)):
        return number
    found = int(name) if re.fullmatch("[0-9]{1,5}", name) else vars(errno).get(name)
    if not isinstance(found, int) or found > _ERRNO_MAX:
        parent.fail(name_key, f"is '{shown(name)}', which is not an error of errno(3)")
    return found


def _applies(rule: _Object, machine: Facts) -> bool:
    """All that it includes must hold, and nothing that it excludes."""
    included = list(_holds(rule.child("includes", _CONDITION_KEYS), machine, all))
    excluded = list(_holds(rule.child("excludes", _CONDITION_KEYS), machine, any))
    return all(included) and not any(excluded)


def _holds(
    condition: _Object, machine: Facts, quantifier: Callable[[Iterable[bool]], bool]
) -> Iterator[bool]:
    """For each kind of condition that is given, whether it holds: quantifier is of capabilities."""
    native, _ = _native(machine)
    if arches := condition.texts("arches"):
        yield native in arches
    if caps := condition.texts("caps"):
        yield quantifier(name in machine.capabilities for name in caps)
    if version := condition.text("minKernel"):
        if not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", version):
            condition.fail("minKernel", f"is '{shown(version)}', not a version as 4.8")
        yield machine.kernel >= kernel_version(version)

"""A hook file of oci-hooks(5), schema 1.0.0: what it says, checked.

As in podman, which reads it with Go's encoding/json, the case of a key does not count, null is as
good as no key, and an unknown key is passed over.
"""

import os
import re
from dataclasses import dataclass

from torpor import go_regexp, strict_json
from torpor.bundle import HOOK_DIRECTORY
from torpor.errors import TorporError
from torpor.oci_config import Config
from torpor.yaml_tree import shown

PRECREATE = "precreate"
STAGES = (  # those of OCI's config.md, and podman's own
    PRECREATE,
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)

_VERSION = "1.0.0"
_TIMEOUT_MAX_S = 999_999_999
_UNSPEAKABLE = re.compile("[\0\ud800-\udfff]")  # what no argument of execve(2) can hold

Patterns = tuple[re.Pattern[str], re.Pattern[str]]


class HookError(TorporError):
    """A hook file, or the program that it names, is wrong: EX_CONFIG of sysexits.h."""

    exit_code = 78


@dataclass(frozen=True)
class When:
    """Conditions on a container; None or empty is no condition.

    annotations are pairs of patterns, for a key and its value; commands are patterns for the
    program, of which one is enough.
    """

    always: bool | None = None
    has_bind_mounts: bool | None = None
    annotations: tuple[Patterns, ...] = ()
    commands: tuple[re.Pattern[str], ...] = ()


@dataclass(frozen=True)
class Hook:
    """What the hook file says; timeout_s is None where it leaves that to who runs the hook."""

    file: str
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout_s: int | None
    when: When
    stages: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        return os.path.normpath(self.path).startswith(HOOK_DIRECTORY)

    def entry(self) -> Config:
        """The hook as a config.json has it."""
        said = {"args": list(self.args), "env": list(self.env), "timeout": self.timeout_s}
        return {"path": self.path, **{key: value for key, value in said.items() if value}}


def parse(file: str, content: bytes) -> Hook:
    """The hook in content, without a look at the machine; file is for messages.

    Raises HookError.
    """
    try:
        value = strict_json.parse(content)
    except ValueError as error:
        raise HookError(f"{file}: is not JSON: {error}") from error
    top = _Section(file, "", value)
    _require_version(top)
    hook = top.section("hook")
    return Hook(
        file=file,
        path=_path(hook),
        args=hook.texts("args"),
        env=_env(hook),
        timeout_s=_timeout_s(hook),
        when=_when(top.section("when")),
        stages=_stages(top),
    )


class _Section:
    """An object of a hook file, whose members are asked for by key."""

    def __init__(self, file: str, prefix: str, value: object) -> None:
        self._file = file
        self._prefix = prefix
        if not isinstance(value, dict):
            where = f"{file}: key '{prefix[:-1]}'" if prefix else file
            raise HookError(f"{where}: is not an object", "See oci-hooks(5).")
        self._members: dict[str, object] = {}
        for key, member in value.items():
            if key.lower() in self._members:
                raise self.error(key, "is given twice, in upper and lower case", "Remove one.")
            self._members[key.lower()] = member

    def error(self, key: str, problem: str, hint: str = "") -> HookError:
        return HookError(f"{self._file}: key '{self._prefix}{shown(key)}': {problem}", hint)

    def get(self, key: str) -> object:
        """The member of that key, None if there is none."""
        return self._members.get(key.lower())

    def section(self, key: str) -> "_Section":
        """The object of that key, an empty one if there is none."""
        value = self.get(key)
        return _Section(self._file, f"{self._prefix}{key}.", {} if value is None else value)

    def flag(self, key: str) -> bool | None:
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(key, "is not a boolean", "Write true or false, without quotes.")

    def text(self, key: str) -> str:
        """The text of that key, an empty one if there is none."""
        value = self.get(key)
        return self._text(key, "" if value is None else value)

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts of that key, an empty one if there is none."""
        value = self.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(key, "is not a list", 'Write ["text", ...].')
        return tuple(self._text(key, item) for item in value or ())

    def pairs(self, key: str) -> list[tuple[str, str]]:
        """The object of texts of that key, an empty one if there is none."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "is not an object", 'Write {"key": "text", ...}.')
        return [
            (self._text(key, name), self._text(f"{key}.{name}", text))
            for name, text in (value or {}).items()
        ]

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.error(key, "holds what is not a text", "Write it in double quotes.")
        if _UNSPEAKABLE.search(value):
            raise self.error(key, "holds a NUL or half a surrogate pair")
        return value


def _require_version(top: _Section) -> None:
    if (version := top.text("version")) == _VERSION:
        return
    if version in ("", "0.1.0"):
        problem = f"is {version or 'missing'}: this is a file of the old schema 0.1.0"
        raise top.error("version", problem, "Write it anew in schema 1.0.0, see oci-hooks(5).")
    raise top.error("version", f"is '{shown(version)}', but must be {_VERSION}")


def _path(hook: _Section) -> str:
    path = hook.text("path")
    if not path:
        raise hook.error("path", "is missing", "It names the program to run.")
    if not path.startswith("/"):
        raise hook.error("path", f"'{shown(path)}' is not an absolute path", "Begin it with /.")
    return path


def _env(hook: _Section) -> tuple[str, ...]:
    env = hook.texts("env")
    for entry in env:
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            raise hook.error("env", f"'{shown(entry)}' is not NAME=VALUE")
    return env


def _timeout_s(hook: _Section) -> int | None:
    value = hook.get("timeout")
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _TIMEOUT_MAX_S:  # a bool is an int to Python
        hint = f"Write a number of seconds from 1 to {_TIMEOUT_MAX_S}, without quotes."
        raise hook.error("timeout", "is not a number of seconds", hint)
    return value


def _when(when: _Section) -> When:
    annotations = [
        (
            _pattern(when, "annotations", key),
            _pattern(when, f"annotations.{key}", value),
        )
        for key, value in when.pairs("annotations")
    ]
    commands = [_pattern(when, "commands", command) for command in when.texts("commands")]
    return When(
        always=when.flag("always"),
        has_bind_mounts=when.flag("hasBindMounts"),
        annotations=tuple(annotations),
        commands=tuple(commands),
    )


def _pattern(when: _Section, key: str, pattern: str) -> re.Pattern[str]:
    try:
        return go_regexp.compiled(pattern)
    except go_regexp.PatternError as error:
        problem = f"'{shown(pattern)}' cannot be used as a regular expression: {error}"
        raise when.error(key, problem, "Keep to POSIX extended regular expressions.") from error


def _stages(top: _Section) -> tuple[str, ...]:
    if top.get("stages") is None:
        raise top.error("stages", "is missing", f"Known: {', '.join(STAGES)}.")
    stages = top.texts("stages")
    for stage in stages:
        if stage not in STAGES:
            hint = f"Known: {', '.join(STAGES)}."
            raise top.error("stages", f"'{shown(stage)}' is not a stage", hint)
    return stages

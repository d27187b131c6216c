"""The hooks of a bundle's config.json, torpor's among other people's, and annotations for them.

Format: "POSIX-platform Hooks" in config.md of the OCI runtime specification.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torpor import bundle, regular_file, strict_json
from torpor.annotations import NETWORK, SLICE, SYSTEMD
from torpor.bundle import HOOK_DIRECTORY
from torpor.errors import DefinitionError

TIMEOUT_S = 10

_FILE = "config.json"
_INDENTED = re.compile(r'\s*\{\r?\n([ \t]*)"')


@dataclass(frozen=True)
class Hook:
    """One entry, and at which stage the runtime calls it."""

    stage: str
    path: str

    def __str__(self) -> str:
        return f"{self.stage} {self.path}"

    @property
    def is_ours(self) -> bool:
        return os.path.normpath(self.path).startswith(HOOK_DIRECTORY)


OURS = (
    Hook("createRuntime", f"{HOOK_DIRECTORY}hooks/create-runtime"),
    Hook("poststop", f"{HOOK_DIRECTORY}hooks/poststop"),
)
CGROUP = Hook("createRuntime", f"{HOOK_DIRECTORY}hooks/cgroup")
SYSTEMD_HOOK = Hook("createRuntime", f"{HOOK_DIRECTORY}hooks/systemd")
CONNECT = Hook("createRuntime", f"{HOOK_DIRECTORY}hooks/network")
DISCONNECT = Hook("poststop", f"{HOOK_DIRECTORY}hooks/network")
# The annotation by which each of these knows what it is for.
_ANNOTATED = {CGROUP: SLICE, SYSTEMD_HOOK: SYSTEMD, CONNECT: NETWORK, DISCONNECT: NETWORK}


@dataclass(frozen=True)
class Annotation:
    """One of the container's annotations."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"annotation {self.key}={self.text}"


@dataclass(frozen=True)
class Outcome:
    """Whether an entry had to be changed; it is as wanted in both cases."""

    entry: Hook | Annotation
    changed: bool


def find(bundle: str) -> list[Hook]:
    """Every hook of a bundle, by stage in the file's order. DefinitionError for a bad bundle."""
    with _open(bundle) as file:
        return _hooks(file)


def add(bundle: str, slice: str = "", *, systemd: bool = False, network: str = "") -> list[Outcome]:
    """Put torpor's hooks behind those that are there.

    With a slice, for systemd or with a network, the hooks for that and its annotation too.
    DefinitionError for a bad bundle. What the slice and the network are is not checked.
    """
    texts = {SLICE: slice, SYSTEMD: "true" if systemd else "", NETWORK: network}
    wanted = [hook for hook, key in _ANNOTATED.items() if texts[key]]
    with _open(bundle) as file:
        outcomes = _add_hooks(file, (*OURS, *wanted))
        outcomes += [_annotate(file, Annotation(key, text)) for key, text in texts.items() if text]
        if any(outcome.changed for outcome in outcomes):
            file.replace()
        return outcomes


def _add_hooks(file: "_ConfigFile", wanted: tuple[Hook, ...]) -> list[Outcome]:
    present = {(hook.stage, os.path.normpath(hook.path)) for hook in _hooks(file)}
    outcomes = [Outcome(hook, (hook.stage, hook.path) not in present) for hook in wanted]
    for hook in (hook for hook, one in zip(wanted, outcomes, strict=True) if one.changed):
        hooks = file.config["hooks"] = file.config.get("hooks") or {}
        entry = {"path": hook.path, "timeout": TIMEOUT_S}
        hooks[hook.stage] = [*(hooks.get(hook.stage) or []), entry]
    return outcomes


def _annotate(file: "_ConfigFile", wanted: Annotation) -> Outcome:
    annotations = file.annotations()
    changed = annotations.get(wanted.key) != wanted.text
    file.config["annotations"] = {**annotations, wanted.key: wanted.text}
    return Outcome(wanted, changed)


def remove(bundle: str) -> list[Outcome]:
    """Take torpor's hooks out, whatever their stage, and with each its annotation.

    DefinitionError for a bad bundle.
    """
    with _open(bundle) as file:
        ours = [hook for hook in _hooks(file) if hook.is_ours]
        taken: list[Hook | Annotation] = [*ours]
        if ours:
            _drop_ours(file.config)
            keys = dict.fromkeys(key for hook, key in _ANNOTATED.items() if hook in ours)
            taken += [annotation for key in keys for annotation in _take(file, key)]
            file.replace()
        absent = [hook for hook in OURS if hook not in ours]
        return [*(Outcome(one, True) for one in taken), *(Outcome(hook, False) for hook in absent)]


def _take(file: "_ConfigFile", key: str) -> list[Annotation]:
    """Remove an annotation, and the object that holds nothing else."""
    annotations = dict(file.annotations())
    text = annotations.pop(key, None)
    if text is None:
        return []
    if annotations:
        file.config["annotations"] = annotations
    else:
        del file.config["annotations"]
    return [Annotation(key, str(text))]


def _drop_ours(config: dict[str, Any]) -> None:
    """Remove torpor's entries, and the lists that hold nothing else."""
    hooks = config["hooks"]
    for stage in list(hooks):
        entries = hooks[stage] or []
        others = [entry for entry in entries if not Hook(stage, entry["path"]).is_ours]
        if len(others) == len(entries):
            continue
        hooks[stage] = others
        if not others:
            del hooks[stage]
    if not hooks:
        del config["hooks"]


def _hooks(file: "_ConfigFile") -> list[Hook]:
    hooks, where = file.config.get("hooks"), file.where
    if hooks is None:
        return []
    if not isinstance(hooks, dict):
        raise DefinitionError(f"{where}: hooks is not an object")
    found = []
    for stage, entries in hooks.items():
        if entries is not None and not isinstance(entries, list):
            raise DefinitionError(f"{where}: hooks.{stage} is not a list")
        for entry in entries or []:
            path = entry.get("path") if isinstance(entry, dict) else None
            if not isinstance(path, str):
                raise DefinitionError(f"{where}: hooks.{stage}: an entry has no path")
            found.append(Hook(stage, path))
    return found


class _ConfigFile:
    """A bundle's config.json, read, and to be replaced as a whole."""

    def __init__(self, directory: int, where: str) -> None:
        self._directory = directory
        self.where = where
        try:
            content, self._status = _read(directory)
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise DefinitionError(f"{where}: cannot read the bundle: {reason}") from error
        try:
            self._text = content.decode()
            config = strict_json.parse(content)
        except ValueError as error:
            raise DefinitionError(f"{where}: is not JSON: {error}") from error
        if not isinstance(config, dict) or not isinstance(config.get("ociVersion"), str):
            raise DefinitionError(f"{where}: is no OCI configuration: it has no ociVersion")
        self.config: dict[str, Any] = config

    def annotations(self) -> dict[str, Any]:
        """The container's annotations, empty where there are none. Raises DefinitionError."""
        found = self.config.get("annotations") or {}
        if not isinstance(found, dict):
            raise DefinitionError(f"{self.where}: annotations is not an object")
        return found

    def replace(self) -> None:
        """Write the configuration back durably, in the style, mode and ownership it had."""
        content = _serialize(self.config, self._text)
        temporary = f".{_FILE}.{os.urandom(6).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary, flags, 0o600, dir_fd=self._directory)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchown(fd, self._status.st_uid, self._status.st_gid)
                os.fchmod(fd, stat.S_IMODE(self._status.st_mode))
                file.write(content)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, _FILE, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            os.unlink(temporary, dir_fd=self._directory)
            raise
        os.fsync(self._directory)


@contextmanager
def _open(bundle: str) -> Iterator[_ConfigFile]:
    try:
        directory = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DefinitionError(f"{bundle}: is no bundle: {error.strerror}") from error
    try:
        yield _ConfigFile(directory, os.path.join(bundle, _FILE))
    finally:
        os.close(directory)


def _read(directory: int) -> tuple[bytes, os.stat_result]:
    flags = regular_file.OPEN_FLAGS | os.O_NOFOLLOW
    fd = os.open(_FILE, flags, dir_fd=directory)
    try:
        return regular_file.read_fd(fd, bundle.SIZE_LIMIT_BYTES)
    finally:
        os.close(fd)


def _serialize(config: dict[str, Any], before: str) -> bytes:
    """config in the style of the text it was read from: indentation, escapes, end of file."""
    indented = _INDENTED.match(before)
    compact = '":' in before and '": ' not in before
    text = json.dumps(
        config,
        indent=indented[1] if indented else None,
        separators=(",", ":") if compact else (", " if not indented else ",", ": "),
        # An escape in the file may stand for what UTF-8 cannot say: half of a surrogate pair.
        ensure_ascii=before.isascii() or "\\u" in before,
    )
    return (text + before[len(before.rstrip()) :]).encode()

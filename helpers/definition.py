"""A container's definition, /etc/torpor/NAME.yaml: what its author asked for, checked.

Every scalar is read as text and typed by the schema, never by YAML's own guesses: `on` is a key,
`022` is not eighteen and `12:34:56` is not a number.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor import regular_file, schema, yaml_tree
from torpor.errors import DefinitionError
from torpor.schema import User

SIZE_LIMIT_BYTES = 1 << 20
DEFAULT_CHECKPOINT_ON = frozenset({"stop", "shutdown"})


@dataclass(frozen=True)
class CheckpointPolicy:
    """When memory is saved, and what becomes of it."""

    on: frozenset[str] = DEFAULT_CHECKPOINT_ON
    restore_failure: str = "start-fresh"
    keep: int = 1
    keep_logs: bool = False


@dataclass(frozen=True)
class Definition:
    """What a definition says; None, or an empty env, is what it leaves to the renderer's defaults.

    Exactly one of bundle and rootfs is set; both are absolute and normalised, not resolved.
    stop_signal is a signal number; lines maps each dotted key to its line in the file.
    """

    name: str
    path: str
    bundle: str | None
    rootfs: str | None
    command: tuple[str, ...] | None
    env: tuple[tuple[str, str], ...]
    cwd: str | None
    hostname: str | None
    user: User | None
    stop_signal: int | None
    checkpoint: CheckpointPolicy
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def digest(self) -> str:
        """32 hexadecimal digits that change when the container is another one.

        Only what the author wrote counts, so a newer schema or another default leaves old
        definitions alone. Layout, order, comments, where the file lies and how the container is put
        to sleep (checkpoint, stop-signal) do not: a change of policy must not cost a sleeper its
        memory.
        """
        said: dict[str, Any] = {
            "name": self.name,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "command": self.command,
            "env": dict(self.env) or None,
            "cwd": self.cwd,
            "hostname": self.hostname,
            "user": self.user and [self.user.user, self.user.group],
        }
        specified = {key: value for key, value in said.items() if value is not None}
        canonical = json.dumps(specified, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]

    def error(self, key: str, problem: str, hint: str = "") -> DefinitionError:
        """The DefinitionError that blames key, with its place in the file."""
        return DefinitionError(
            f"{self.path}:{self.lines.get(key, 1)}: key '{key}': {problem}", hint
        )


def load(name: str, path: str) -> Definition:
    """The definition of container name at path, whose directories exist.

    Raises DefinitionError for whatever is wrong with the file, its owner, its text or its paths.
    """
    definition = parse(name, path, _read(path))
    for key, directory in (("bundle", definition.bundle), ("rootfs", definition.rootfs)):
        if directory is not None:
            _require_directory(definition, key, directory)
    return definition


def parse(name: str, path: str, content: bytes) -> Definition:
    """The definition in content, without a look at the machine; path is for messages.

    Raises DefinitionError.
    """
    values, lines = schema.read(path, yaml_tree.read(path, content))
    definition = Definition(
        name=name,
        path=path,
        bundle=values.get("bundle"),
        rootfs=values.get("rootfs"),
        command=values.get("command"),
        env=values.get("env", ()),
        cwd=values.get("cwd"),
        hostname=values.get("hostname"),
        user=values.get("user"),
        stop_signal=values.get("stop-signal"),
        checkpoint=_policy(values),
        lines=lines,
    )
    _require_consistency(definition)
    return definition


def _policy(values: Mapping[str, Any]) -> CheckpointPolicy:
    default = CheckpointPolicy()
    return CheckpointPolicy(
        on=values.get("checkpoint.on", default.on),
        restore_failure=values.get("checkpoint.restore-failure", default.restore_failure),
        keep=values.get("checkpoint.keep", default.keep),
        keep_logs=values.get("checkpoint.keep-logs", default.keep_logs),
    )


def _require_consistency(definition: Definition) -> None:
    if definition.bundle is not None and definition.rootfs is not None:
        later = max("bundle", "rootfs", key=lambda key: definition.lines[key])
        raise definition.error(
            later, "a container has either a bundle or a rootfs, not both", "Remove one of the two."
        )
    if definition.bundle is None and definition.rootfs is None:
        hint = "Name an OCI bundle with bundle:, or a directory tree with rootfs: and command:."
        raise definition.error("rootfs", "is missing, and so is 'bundle'", hint)
    if definition.rootfs is not None and definition.command is None:
        hint = "A rootfs does not say what to run: add for example  command: [/sbin/init]"
        raise definition.error("command", "is missing", hint)


def _require_directory(definition: Definition, key: str, directory: str) -> None:
    try:
        mode = os.stat(directory).st_mode
    except OSError as error:
        raise definition.error(key, f"{yaml_tree.shown(directory)}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise definition.error(key, f"{yaml_tree.shown(directory)} is not a directory")


def _read(path: str) -> bytes:
    try:
        content, status = regular_file.read(path, SIZE_LIMIT_BYTES)
    except OSError as error:
        raise DefinitionError(f"{path}: cannot read the definition: {error.strerror}") from error
    _require_trusted(path, status)
    return content


def _require_trusted(path: str, status: os.stat_result) -> None:
    """Who writes a definition decides what runs as root; a group may, where an admin lets it."""
    if status.st_uid not in (0, os.geteuid()):
        raise DefinitionError(
            f"{path}: belongs to uid {status.st_uid}, who could run anything as root through it",
            f"Look at it, then: chown root: {path}",
        )
    if status.st_mode & stat.S_IWOTH:
        raise DefinitionError(
            f"{path}: is writable by everybody, who could run anything as root through it",
            f"Look at it, then: chmod o-w {path}",
        )

"""A container's definition, /etc/torpor/NAME.yaml: what its author asked for, checked.

Every scalar is read as text and typed by the schema, never by YAML's own guesses: `on` is a key,
`022` is not eighteen and `12:34:56` is not a number.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from torpor import (
    machined,
    namespaces,
    network,
    placement,
    regular_file,
    resources,
    schema,
    trust,
    yaml_tree,
)
from torpor.accounts import User
from torpor.capabilities import Capabilities
from torpor.devices import Device
from torpor.errors import DefinitionError
from torpor.idmap import IdMap
from torpor.mount_list import Mount
from torpor.namespaces import Namespace
from torpor.network import Network
from torpor.oci_layout import Image
from torpor.placement import Placement
from torpor.resources import Resources
from torpor.rlimits import Rlimit
from torpor.seccomp import Seccomp
from torpor.selinux import Selinux

SIZE_LIMIT_BYTES = 1 << 20
BY_RUNTIME, BY_CONTAINER = schema.NOTIFIERS
DEFAULT_CHECKPOINT_ON = frozenset({"stop", "shutdown"})


@dataclass(frozen=True)
class CheckpointPolicy:
    """When memory is saved, and what becomes of it."""

    on: frozenset[str] = DEFAULT_CHECKPOINT_ON
    restore_failure: str = "start-fresh"
    keep: int = 1
    keep_logs: bool = False
    on_crash: str = "fresh"
    snapshots_keep: int = 3
    snapshots_max_bytes: int = 0  # 0 is no limit
    tcp_keep: bool = False


@dataclass(frozen=True)
class Definition:
    """What a definition says; None or empty is what it leaves to the bundle, image or defaults.

    Exactly one of bundle, rootfs and image is set; paths are absolute and normalised, not
    resolved. stop_signal is a signal number; lines maps each dotted key to its line in the file.
    namespaces holds the one that network names, unless that is leased.
    """

    name: str
    path: str
    bundle: str | None = None
    rootfs: str | None = None
    image: Image | None = None
    read_only: bool | None = None
    command: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    hostname: str | None = None
    user: User | None = None
    groups: tuple[int | str, ...] = ()
    umask: int | None = None
    rlimits: tuple[Rlimit, ...] = ()
    capabilities: Capabilities | None = None
    devices: tuple[Device, ...] = ()
    seccomp: Seccomp | None = None
    selinux: Selinux | None = None
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    shm_size_bytes: int | None = None
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[str, ...] = ()
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    network: Network | None = None
    idmap: IdMap | None = None
    userns: str | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    stop_signal: int | None = None
    systemd: str | None = None
    notify: str = BY_RUNTIME
    register: bool = False
    cgroups: Placement = placement.DEFAULT
    slice: str | None = None
    resources: Resources = resources.NONE
    after: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def digest(self) -> str:
        """32 hexadecimal digits that change when the container is another one.

        Only what the author wrote counts, so a newer schema or another default leaves old
        definitions alone. Layout, order, comments and where the file lies do not, nor what concerns
        the unit (slice, resources, after, requires, register) and how it is put to sleep
        (checkpoint, stop-signal): a change of these must not cost a sleeper its memory.
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
        said |= {
            key: _plain(value)
            for key, value in vars(self).items()
            if key not in said and key not in _NOT_ITS_OWN and value != _DEFAULTS[key]
        }
        specified = {key: value for key, value in said.items() if value is not None}
        canonical = json.dumps(specified, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]

    def error(
        self, key: str, problem: str, hint: str = "", line: int | None = None
    ) -> DefinitionError:
        """The DefinitionError that blames key, with its place in the file; line if it is below."""
        where = f"{self.path}:{line or self.lines.get(key, 1)}"
        return DefinitionError(f"{where}: key '{key}': {problem}", hint)


# What a definition says about the unit and the policy, not about the container.
_NOT_ITS_OWN = frozenset(
    (
        *("path", "lines", "slice", "resources", "after", "requires", "register"),
        *("stop_signal", "checkpoint"),
    )
)
_DEFAULTS = vars(Definition(name="", path=""))


def _plain(value: object) -> object:
    """A value as JSON has it; neither where it was written counts, nor what nobody said."""
    if is_dataclass(value) and not isinstance(value, type):
        defaults = {field.name: field.default for field in fields(value)}
        said = vars(value).items()
        return {key: _plain(x) for key, x in said if key != "line" and x != defaults[key]}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value


def load(name: str, path: str) -> Definition:
    """The definition of container name at path, whose directories exist.

    Raises DefinitionError for whatever is wrong with the file, its owner, its text or its paths.
    """
    definition = parse(name, path, read(path))
    image = definition.image.directory if definition.image else None
    places = {"bundle": definition.bundle, "rootfs": definition.rootfs, "image": image}
    for key, directory in places.items():
        if directory is not None:
            _require_directory(definition, key, directory)
    return definition


# Keys whose field says what the value is measured in.
_FIELDS = {"shm-size": "shm_size_bytes"}


def parse(name: str, path: str, content: bytes) -> Definition:
    """The definition in content, without a look at the machine; path is for messages.

    Raises DefinitionError.
    """
    values, lines = schema.read(path, yaml_tree.read(path, content))
    said = {
        _FIELDS.get(key, key.replace("-", "_")): value
        for key, value in values.items()
        if not key.startswith("checkpoint.")
    }
    definition = Definition(name=name, path=path, checkpoint=_policy(values), lines=lines, **said)
    definition = _with_net(definition)
    _require_consistency(definition)
    return definition


def _policy(values: Mapping[str, Any]) -> CheckpointPolicy:
    default = CheckpointPolicy()
    return CheckpointPolicy(
        on=values.get("checkpoint.on", default.on),
        restore_failure=values.get("checkpoint.restore-failure", default.restore_failure),
        keep=values.get("checkpoint.keep", default.keep),
        keep_logs=values.get("checkpoint.keep-logs", default.keep_logs),
        on_crash=values.get("checkpoint.on-crash", default.on_crash),
        snapshots_keep=values.get("checkpoint.snapshots.keep", default.snapshots_keep),
        snapshots_max_bytes=values.get("checkpoint.snapshots.max-size", 0),
        tcp_keep=values.get("checkpoint.tcp") == schema.TCP_KEEP,
    )


def _with_net(definition: Definition) -> Definition:
    """definition, whose network is a namespace as namespaces.net says it too."""
    wanted = definition.network
    if wanted is None:
        return definition
    if "net" in definition.namespaces:
        raise definition.error(
            "network", "is given, and namespaces: net too", "Remove one of them."
        )
    if wanted.namespace is None:
        return definition
    return replace(definition, namespaces={**definition.namespaces, "net": wanted.namespace})


def _require_consistency(definition: Definition) -> None:
    _require_one_root(definition)
    if definition.rootfs is not None and definition.command is None:
        hint = "A rootfs does not say what to run: add for example  command: [/sbin/init]"
        raise definition.error("command", "is missing", hint)
    if definition.image and not definition.image.is_layout and definition.command is None:
        hint = "A directory does not say what to run: add for example  command: [/sbin/init]"
        raise definition.error("command", "is missing", hint)
    if definition.register and (problem := machined.obstacle(definition.name)):
        hint = "Rename the container, or leave register: out."
        raise definition.error("register", problem, hint)
    _require_one_map(definition)
    _require_mountable(definition)
    for kind, other in namespaces.others(definition.namespaces).items():
        if other == definition.name:
            key, hint = _key(definition, kind), "Leave it out for one of its own."
            raise definition.error(key, f"{kind}: it cannot join itself", hint)
    if definition.checkpoint.tcp_keep:
        problem = network.keep_obstacle(definition.namespaces.get("net"))
        if problem:
            raise definition.error("checkpoint.tcp", problem, "Write close, or another network:.")


def _key(definition: Definition, kind: str) -> str:
    """Where the definition says what its namespace of this kind is."""
    return "network" if kind == "net" and definition.network is not None else "namespaces"


def _require_one_root(definition: Definition) -> None:
    roots = [key for key in ("bundle", "rootfs", "image") if getattr(definition, key) is not None]
    if len(roots) > 1:
        first, later = sorted(roots, key=lambda key: definition.lines[key])[:2]
        problem = f"a container has either {_article(first)} or {_article(later)}, not both"
        raise definition.error(later, problem, "Remove one of the two.")
    if not roots:
        hint = (
            "Name a directory tree with rootfs: and command:, an image with image:, "
            "or an OCI bundle with bundle:."
        )
        raise definition.error("rootfs", "is missing, and so are 'image' and 'bundle'", hint)


def _article(key: str) -> str:
    return f"an {key}" if key[0] in "aeiou" else f"a {key}"


def _require_one_map(definition: Definition) -> None:
    """A user namespace is the host's, somebody else's, or mapped here."""
    mapped = "userns" if definition.userns is not None else "idmap"
    has_map = definition.userns is not None or definition.idmap is not None
    if definition.userns is not None and definition.idmap is not None:
        raise definition.error("userns", "is given, and idmap: too", "Remove one of the two.")
    user = definition.namespaces.get("user")
    if has_map and user is not None and user.how != "own":
        problem = f"user is {user.how}, but {mapped}: maps ids in one of its own"
        raise definition.error("namespaces", problem, "Remove one of the two.")
    if user is not None and user.how == "own" and not has_map and definition.bundle is None:
        hint = "Add for example  idmap: 0:100000:65536  or  userns: USER."
        raise definition.error("namespaces", "user is own, but no ids are mapped", hint)


# What the file system that every container has shows, and of which namespace it is.
_SHOWN_BY = {"net": "/sys", "pid": "/proc", "ipc": "/dev/mqueue"}


def _require_mountable(definition: Definition) -> None:
    """Linux lets a user namespace mount these for namespaces that belong to it only."""
    if definition.bundle is not None or (definition.userns is None and definition.idmap is None):
        return
    for kind, place in _SHOWN_BY.items():
        found = definition.namespaces.get(kind)
        if found is not None and found.how != "own":
            problem = f"{kind} is {found.how}, but {place} cannot be mounted then: ids are mapped"
            hint = "Remove it, or idmap: and userns:; or use a bundle without that mount."
            raise definition.error(_key(definition, kind), problem, hint)


def _require_directory(definition: Definition, key: str, directory: str) -> None:
    try:
        mode = os.stat(directory).st_mode
    except OSError as error:
        raise definition.error(key, f"{yaml_tree.shown(directory)}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise definition.error(key, f"{yaml_tree.shown(directory)} is not a directory")


def read(path: str) -> bytes:
    try:
        content, status = regular_file.read(path, SIZE_LIMIT_BYTES)
    except OSError as error:
        raise DefinitionError(f"{path}: cannot read the definition: {error.strerror}") from error
    trust.require(path, status, DefinitionError)
    return content

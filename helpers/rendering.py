"""Rendering only what changed: the OCI config, and the record of what it was made from.

A start whose definition, bundle and cgroup are those of the last rendering imports no YAML.
"""

import os

import torpor
from torpor import record
from torpor.container import Container
from torpor.errors import DefinitionError, RecordError, TorporError
from torpor.rootfs import identity

TYPE_CHECKING = False  # neither typing nor what renders is imported when nothing changed
if TYPE_CHECKING:
    from torpor.spec import Config, Rendered


class Inputs:
    """What a start and a stop need to know of a definition, without reading YAML."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def text(self, key: str) -> str:
        return next((value for name, value in self._pairs if name == key), "")

    def texts(self, key: str) -> list[str]:
        return [value for name, value in self._pairs if name == key]

    @property
    def digest(self) -> str:
        """Identifies the definition and its bundle; a change of it invalidates images."""
        return self.text("digest")

    @property
    def rootfs(self) -> str:
        return self.text("rootfs")

    @property
    def checkpoint_on(self) -> frozenset[str]:
        return frozenset(self.text("checkpoint-on").split())

    @property
    def start_fresh(self) -> bool:
        """Whether a failed restore may be answered by a fresh start."""
        return self.text("restore-failure") != "fail"

    @property
    def keep(self) -> int:
        """How many generations stay on disk, the one asleep included."""
        return int(self.text("keep"))

    @property
    def keep_logs(self) -> bool:
        return self.text("keep-logs") == "yes"

    @property
    def stop_signal(self) -> int:
        return int(self.text("stop-signal"))

    @property
    def owner(self) -> tuple[int, int]:
        """The host's uid and gid of the container's root."""
        uid, _, gid = self.text("owner").partition(":")
        return int(uid), int(gid)

    @property
    def obstacles(self) -> list[str]:
        """What in the config would keep images of it from being restored."""
        return self.texts("obstacle")

    @property
    def sync_paths(self) -> list[str]:
        """Directories whose files must be as durable as the memory that refers to them."""
        return self.texts("sync")


def load(container: Container) -> Inputs | None:
    """The last rendering's inputs, whether or not they still hold; None when there are none."""
    try:
        text = record.read_bytes(container.inputs_path)
        if text is None:
            return None
        return Inputs(record.parse(text, "inputs", container.inputs_path))
    except RecordError:
        return None


def current(container: Container, cgroup_path: str) -> tuple[Inputs, list[str]]:
    """The inputs as they are now, rendered anew if they changed, and warnings of the rendering."""
    known = load(container)
    if known is not None and _still_hold(container, known, cgroup_path):
        _require_rootfs(known.rootfs)
        return known, []
    return _render(container, cgroup_path)


def _require_rootfs(path: str) -> None:
    """An empty directory is a rootfs that is not mounted, not a new one: no memory ends for it."""
    try:
        with os.scandir(path) as entries:
            if any(entries):
                return
        problem = "is empty"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise DefinitionError(
        f"the rootfs {path} {problem}", "is its file system mounted, its image unpacked?"
    )


def current_or_last(container: Container) -> Inputs:
    """For a stop: today's definition if it can be read, else the one that the container runs under.

    Only the policy in it counts, so the last rendered config stays as it is.
    """
    known = load(container)
    if known is not None and _still_hold(container, known, known.text("cgroup")):
        return known
    try:
        pairs, _ = _pairs_and_config(container, known.text("cgroup") if known else "")
        return Inputs(pairs)
    except TorporError:
        if known is None:
            raise
        return known


def check(container: Container) -> list[str]:
    """Render without keeping anything: warnings, or the DefinitionError that a start would give."""
    pairs, rendered = _pairs_and_config(container, "/check")
    return _warnings(Inputs(pairs), rendered)


def _warnings(inputs: Inputs, rendered: "Rendered") -> list[str]:
    cannot_sleep = [f"it cannot sleep: {obstacle}" for obstacle in inputs.obstacles]
    return [*rendered.warnings, *(cannot_sleep if inputs.checkpoint_on else [])]


def _still_hold(container: Container, known: Inputs, cgroup_path: str) -> bool:
    return (
        known.text("torpor") == torpor.__version__
        and known.text("cgroup") == cgroup_path
        and known.texts("file") == [_stamped(path) for path in _stamp_paths(container, known)]
        and os.path.exists(container.rendered_path)
    )


def _stamp_paths(container: Container, known: Inputs) -> list[str]:
    return [container.definition_path, *known.texts("also")]


def _stamped(path: str) -> str:
    """Identifies a file's content without reading it; any write changes ctime."""
    try:
        stat = os.stat(path)
    except OSError:
        return f"- {path}"
    return (
        f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns} {path}"
    )


def _render(container: Container, cgroup_path: str) -> tuple[Inputs, list[str]]:
    pairs, rendered = _pairs_and_config(container, cgroup_path)
    from torpor import spec

    record.make_directory(container.state_dir)
    record.write_durably(container.rendered_path, spec.dumps(rendered.config))
    record.write_durably(container.inputs_path, record.serialize("inputs", pairs))
    inputs = Inputs(pairs)
    return inputs, _warnings(inputs, rendered)


def _pairs_and_config(
    container: Container, cgroup_path: str
) -> "tuple[list[tuple[str, str]], Rendered]":
    from torpor import definition as definitions
    from torpor import spec

    also = []
    before = [_stamped(container.definition_path)]
    definition = definitions.load(container.name, container.definition_path)
    base = None
    if definition.bundle:
        also = [f"{definition.bundle}/config.json"]
    elif definition.rootfs:
        also = [f"{definition.rootfs}/etc/passwd", f"{definition.rootfs}/etc/group"]
    before += [_stamped(path) for path in also]
    if definition.bundle:
        base = spec.load_bundle(definition.bundle)
    rendered = spec.render(definition, base, spec.Facts(cgroup_path=cgroup_path))
    config = rendered.config
    rootfs = config["root"]["path"]
    _require_rootfs(rootfs)
    policy = definition.checkpoint
    try:
        facts = _facts(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DefinitionError(
            f"{definition.bundle}/config.json: mounts, annotations, uidMappings or gidMappings "
            f"are not of the form that OCI gives them: {error}",
            "see config.md and config-linux.md of the OCI runtime specification",
        ) from error
    pairs = [
        ("torpor", torpor.__version__),
        ("cgroup", cgroup_path),
        ("digest", _digest(definition.digest(), base)),
        ("rootfs", rootfs),
        ("checkpoint-on", " ".join(sorted(policy.on))),
        ("restore-failure", policy.restore_failure),
        ("keep", str(policy.keep)),
        ("keep-logs", "yes" if policy.keep_logs else "no"),
        *facts,
        *(("also", path) for path in also),
        *(("file", stamp) for stamp in before),
    ]
    return pairs, rendered


def _digest(definition_digest: str, base: "Config | None") -> str:
    """Identifies what the container is made from; torpor's own hooks in a bundle do not count."""
    if base is None:
        return definition_digest
    import hashlib

    from torpor import spec

    content = spec.dumps(spec.without_own_hooks(base))
    return hashlib.sha256(definition_digest.encode() + content).hexdigest()[:32]


def _facts(config: "Config") -> list[tuple[str, str]]:
    """What stops and starts need to know of the config; any exception for a malformed one."""
    return [
        ("stop-signal", str(_stop_signal(config))),
        ("owner", _owner(config)),
        *(("sync", path) for path in _writable_paths(config)),
        *(("obstacle", text) for text in _obstacles(config)),
    ]


def _stop_signal(config: "Config") -> int:
    """The signal for a real stop, from the annotation that image builders set; SIGTERM else."""
    from torpor import signals

    text = str(config.get("annotations", {}).get("org.opencontainers.image.stopSignal", "15"))
    return signals.parse(text) or 15


def _owner(config: "Config") -> str:
    """The host's ids of the container's root, through its user namespace if it has one."""
    ids = []
    for key in ("uidMappings", "gidMappings"):
        mappings = config.get("linux", {}).get(key) or []
        ids.append(next((int(m["hostID"]) for m in mappings if m.get("containerID") == 0), 0))
    return f"{ids[0]}:{ids[1]}"


def _writable_paths(config: "Config") -> list[str]:
    """The rootfs and the bind sources that the container may write."""
    paths = [] if config["root"].get("readonly") else [config["root"]["path"]]
    for mount in config.get("mounts") or []:
        options = mount.get("options") or []
        is_bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
        if is_bind and "ro" not in options and os.path.isabs(mount.get("source", "")):
            paths.append(mount["source"])
    return paths


def _obstacles(config: "Config") -> list[str]:
    root = config["root"]
    if root.get("readonly") and not os.path.isdir(f"{root['path']}/tmp"):
        # CRIU makes a directory there to assemble the mounts on (cr_pivot_root in criu/mount.c).
        return ["its rootfs is read-only and has no /tmp, in which CRIU could restore it"]
    return []


def rootfs_identity(inputs: Inputs) -> str:
    return identity(inputs.rootfs)

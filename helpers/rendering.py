"""Rendering only what changed: the OCI config, and the record of what it was made from.

A start whose definition, bundle and cgroup are those of the last rendering imports no YAML.
"""

import os

import torpor
from torpor import last_rendering, record
from torpor.container import RUN_ROOT, Container
from torpor.errors import DefinitionError, RecordError
from torpor.last_rendering import Inputs

TYPE_CHECKING = False  # neither typing nor what renders is imported when nothing changed
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torpor.definition import Definition
    from torpor.facts import Facts, Storage
    from torpor.oci_config import Config
    from torpor.placement import Place
    from torpor.preparation import Plan
    from torpor.spec import Rendered


def current(
    container: Container, unit_payload: str, busy: "AbstractContextManager[None]"
) -> tuple[Inputs, list[str]]:
    """For a start: the inputs as they are now, rendered anew if they changed, and warnings.

    unit_payload is the container's cgroup where it has one in its unit's. A rendering, which may
    unpack an image, is done within busy. The rootfs of a rendered container is mounted.
    """
    known = last_rendering.load(container)
    if known is not None and last_rendering.still_hold(container, known, unit_payload):
        _require_rootfs(known.rootfs)
        return known, []
    with busy:
        return _render(container, unit_payload)


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
    """For a stop: what the container runs under, with the policy of today's definition.

    Nothing is rendered: whatever else changed counts from the next start, and a stop has no time.
    """
    known = last_rendering.load(container)
    if known is not None and last_rendering.still_hold(container, known, known.text("unit")):
        return known
    if known is None:
        known = Inputs(_of_running(container))
    try:
        return Inputs([*_policy_of_today(container), *known.pairs])
    except Exception:  # a definition that is being edited must not keep a container from sleeping
        return known


def _policy_of_today(container: Container) -> list[tuple[str, str]]:
    from torpor import definition as definitions

    path = container.definition_path
    definition = definitions.parse(container.name, path, definitions.read(path))
    signal = definition.stop_signal
    return [*_policy(definition), *([("stop-signal", str(signal))] if signal is not None else [])]


def _of_running(container: Container) -> list[tuple[str, str]]:
    """The record of the last rendering is gone: what its config.json tells."""
    import json

    from torpor import definition as definitions
    from torpor import summary

    text = record.read_bytes(f"{container.bundle}/config.json")
    if text is None:
        raise RecordError(f"{container.inputs_path} and {container.bundle}/config.json are gone")
    config = json.loads(text)
    policy = _policy(definitions.Definition(name=container.name, path=""))
    return [*policy, *summary.of(config, config["root"]["path"])]


def check(container: Container) -> "tuple[Rendered, list[str]]":
    """Render without keeping anything: raises the DefinitionError that a start would give.

    The cgroup is that of the last start, or where systemd puts the unit by its definition.
    """
    made = _made_to_look(container)
    return made.rendered, _warnings(made.inputs, made.rendered)


def inputs_of_today(container: Container) -> Inputs:
    """What a start would go by. Raises DefinitionError."""
    known = last_rendering.load(container)
    if known is not None and last_rendering.still_hold(container, known, known.text("unit")):
        return known
    return _made_to_look(container).inputs


def _made_to_look(container: Container) -> "_Made":
    known = last_rendering.load(container) if os.geteuid() == 0 else None
    holds = known is not None and last_rendering.still_hold(container, known, known.text("unit"))
    return _rendering(container, known.text("unit") if known and holds else "", _look_into)


def anticipate(container: Container) -> "tuple[Rendered, Inputs]":
    """As check(), of a container whose root file system is there: what a start would go by."""
    made = _rendering(container, "", _look_into)
    return made.rendered, made.inputs


def _warnings(inputs: Inputs, rendered: "Rendered") -> list[str]:
    cannot_sleep = [f"it cannot sleep: {problem}" for problem, _ in inputs.obstacles]
    return [*rendered.warnings, *(cannot_sleep if inputs.checkpoint_on else [])]


class _Made:
    """A rendering, and the record of what it was made from."""

    __slots__ = ("definition", "inputs", "rendered")

    def __init__(
        self, definition: "Definition", pairs: list[tuple[str, str]], rendered: "Rendered"
    ) -> None:
        self.definition = definition
        self.inputs = Inputs(pairs)
        self.rendered = rendered


def _render(container: Container, unit_payload: str) -> tuple[Inputs, list[str]]:
    from torpor import oci_config, preparation, spec

    made = _rendering(container, unit_payload, _mount)
    config, plan = made.rendered.config, made.rendered.plan
    record.make_directory(container.state_dir)
    if not os.path.exists(container.created_path):
        created = config["annotations"].get(spec.CREATED_ANNOTATION, "")
        record.write_durably(container.created_path, f"{created}\n".encode())
    record.remove_durably(container.inputs_path)  # it must not vouch for what is not its own
    record.write_durably(container.rendered_path, oci_config.dumps(config))
    record.write_durably(container.planned_path, preparation.serialize([*plan]))
    record.write_durably(container.inputs_path, record.serialize("inputs", made.inputs.pairs))
    return made.inputs, [*_warnings(made.inputs, made.rendered), *_not_yet_known(made)]


def _not_yet_known(made: _Made) -> list[str]:
    from torpor import dropin

    definition = made.definition
    if dropin.is_known(dropin.wanted(definition)):
        return []
    what = "slice, weights and order count from the next start after: systemctl daemon-reload"
    return [f"{definition.path}: systemd has not read it since it changed: its {what}"]


def _mount(container: Container, where: "Storage") -> str:
    """For a start, which needs the root file system anyway."""
    from torpor import preparation

    record.make_directory(container.run_dir)
    preparation.prepare_root(container, [*where.plan])
    return where.root


def _look_into(container: Container, where: "Storage") -> str:
    """For who only looks: the root file system as it is mounted, or what there is of it."""
    from torpor import overlay, preparation

    if where.root != where.lower and os.path.ismount(where.root):
        return where.root
    is_overlay = bool(preparation.first([*where.plan], preparation.OVERLAY))
    if is_overlay and os.path.isdir(overlay.storage_path(container)):
        return _mount_privately(container, where)
    return where.lower


def _mount_privately(container: Container, where: "Storage") -> str:
    """In a mount namespace that ends with this process."""
    from torpor import mounts, preparation

    os.unshare(os.CLONE_NEWNS)
    for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "tmpfs", RUN_ROOT]):
        mounts.mount(words)
    record.make_directory(container.run_dir)
    preparation.show_root(container, [*where.plan])
    return where.root


def _rendering(
    container: Container,
    unit_payload: str,
    reach: "Callable[[Container, Storage], str]",
) -> _Made:
    """Render; reach leads to a directory in which the container's root file system can be read.

    unit_payload may be empty: then it is where systemd puts the unit by its definition.
    """
    from torpor import bundle, facts, oci_config, placement, precreate, spec, summary
    from torpor import definition as definitions

    stamps = {container.definition_path: last_rendering.stamped(container.definition_path)}
    definition = definitions.load(container.name, container.definition_path)
    base = None
    if definition.bundle:
        path = f"{definition.bundle}/config.json"
        stamps[path] = last_rendering.stamped(path)
        base = bundle.load(definition.bundle)
    try:
        ids = facts.id_map(definition)
        where = facts.storage(definition, base, ids)
        stamps |= {
            path: last_rendering.stamped(path)
            for path in facts.stamp_paths(definition, base, where)
        }
        _require_rootfs(where.lower)
        payload = unit_payload or placement.expected(definition.slice, container.unit)
        place = _place(definition, payload)
        root = reach(container, where)
        found = facts.gather(definition, base, where, ids, root, place.cgroups_path)
        rendered = spec.render(definition, base, found)
        config = rendered.config
        if rendered.precreate:
            config = precreate.filtered(config, rendered.precreate)
            bundle.require_shape(config)
            _require_unmoved(config, rendered.config)
        known = summary.of(config, root, found.systemd.machine_id if found.systemd else "")
    except oci_config.ShapeError as error:
        raise DefinitionError(
            f"the hooks of the stage precreate made a config.json that is none: {error}",
            "Their files are in hooks.d, see oci-hooks(5).",
        ) from error
    rendered = spec.Rendered(
        config, (*place.plan, *rendered.plan), rendered.warnings, rendered.precreate
    )
    limits = placement.limits(definition.cgroups, definition.resources)
    places = _places(definition, config, [*rendered.plan], found)
    pairs = [
        ("torpor", torpor.__version__),
        ("unit", payload),
        ("host", last_rendering.host()),
        ("digest", digest(definition, base)),
        ("rootfs", where.lower),
        *([("image", where.image.digest if where.image else "")] if definition.image else []),
        *_policy(definition),
        *(("limit", f"{name}={word}") for name, word in limits),
        *known,
        *(("also", path) for path in [*stamps][1:]),
        *(("file", stamp) for stamp in stamps.values()),
        *(("directory", path) for path in facts.directories(definition, base, where)),
        *(("resolved", f"{path}\t{real}") for path, real in places),
    ]
    return _Made(definition, pairs, rendered)


def _places(
    definition: "Definition", config: "Config", plan: "Plan", found: "Facts"
) -> "Iterator[tuple[str, str]]":
    """Paths of the host that must lead where they led: a source that is missing costs no memory."""
    from torpor import preparation

    yield from found.sources.items()
    image = definition.image.directory if definition.image else None
    for path in (definition.rootfs, image):
        if path is not None:
            yield path, os.path.realpath(path)
    for source in preparation.sources(config, plan):
        if os.path.exists(source):
            yield source, os.path.realpath(source)


def _require_unmoved(config: "Config", before: "Config") -> None:
    """The helpers rely on some of what they rendered, whatever hooks made of it."""
    if config["root"]["path"] != before["root"]["path"]:
        raise DefinitionError(
            f"a precreate hook moved root.path to {config['root']['path'][:80]!a}",
            "say rootfs:, image: or bundle: in the definition instead",
        )
    config["process"]["terminal"] = False
    linux = config.setdefault("linux", {})
    linux.pop("cgroupsPath", None)
    if cgroups_path := before["linux"].get("cgroupsPath"):
        linux["cgroupsPath"] = cgroups_path


def _place(definition: "Definition", unit_payload: str) -> "Place":
    from torpor import placement
    from torpor.values import WrongError

    try:
        return placement.place(definition.cgroups, definition.name, definition.slice, unit_payload)
    except WrongError as error:
        raise definition.error("cgroups", error.problem, error.hint) from error


def _policy(definition: "Definition") -> list[tuple[str, str]]:
    policy = definition.checkpoint
    return [
        ("checkpoint-on", " ".join(sorted(policy.on))),
        ("restore-failure", policy.restore_failure),
        ("keep", str(policy.keep)),
        ("keep-logs", "yes" if policy.keep_logs else "no"),
        ("on-crash", policy.on_crash),
        ("snapshots-keep", str(policy.snapshots_keep)),
        ("snapshots-max-bytes", str(policy.snapshots_max_bytes)),
        ("tcp", "keep" if policy.tcp_keep else "close"),
        ("register", "yes" if definition.register else "no"),
    ]


def digest(definition: "Definition", base: "Config | None") -> str:
    """Identifies what the container is made from; torpor's own hooks in a bundle do not count."""
    own = definition.digest()
    if base is None:
        return own
    import hashlib

    from torpor import bundle, oci_config

    content = oci_config.dumps(bundle.without_own_hooks(base))
    return hashlib.sha256(own.encode() + content).hexdigest()[:32]

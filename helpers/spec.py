"""The OCI runtime configuration (config.json) that a definition asks for.

A pure function: what only the machine knows comes in as facts. Beside the configuration it says
what the host must have mounted or made before runc runs it: the plan, see preparation.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torpor import (
    bundle,
    capabilities,
    devices,
    hooks_d,
    idmap,
    mount_list,
    namespaces,
    netns,
    oci_defaults,
    preparation,
    readiness,
    rlimits,
    seccomp,
    selinux,
    systemd_config,
    withheld,
)
from torpor.container import Container
from torpor.definition import BY_CONTAINER, Definition
from torpor.errors import DefinitionError
from torpor.facts import Facts
from torpor.mounting import Mounting
from torpor.network import keep_obstacle
from torpor.oci_config import Config, ShapeError, items, objects, section
from torpor.oci_hook import PRECREATE, Hook
from torpor.values import WrongError

NAME_ANNOTATION = "io.torpor.name"
STOP_SIGNAL_ANNOTATION = "org.opencontainers.image.stopSignal"
CREATED_ANNOTATION = "io.kubernetes.cri-o.Created"


@dataclass(frozen=True)
class Rendered:
    """A config.json, what the host must have for it, and what its reader should be told."""

    config: Config
    plan: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    precreate: tuple[Hook, ...] = ()  # hooks that have still to be asked about the config


def render(definition: Definition, base: Config | None, facts: Facts) -> Rendered:
    """The config.json of definition; base is its bundle's config.json, None without one.

    base is left as it is. Raises DefinitionError where the definition does not fit the facts, or
    base is unusable.
    """
    if (base is None) != (definition.bundle is None):
        raise ValueError("base is the config.json of the definition's bundle")
    try:
        return _Rendering(definition, base, facts).rendered()
    except ShapeError as error:
        raise DefinitionError(f"{definition.bundle}/config.json: {error}") from error


class _Rendering:
    """One configuration in the making."""

    def __init__(self, definition: Definition, base: Config | None, facts: Facts) -> None:
        self._definition = definition
        self._facts = facts
        self._base = base
        self._is_bundle = base is not None
        self._config = _from_scratch() if base is None else bundle.without_own_hooks(base)
        self._container = Container(definition.name)
        self._plan: list[tuple[str, str]] = list(facts.storage)
        self._warnings: list[str] = []
        self._matching: list[Hook] = []

    def rendered(self) -> Rendered:
        self._root()
        self._namespaces()
        if self._facts.systemd:
            systemd_config.require_namespaces(self._definition, self._config)
        self._process()
        self._identity()
        self._mounts()
        self._linux()
        self._hooks()
        asked = tuple(hook for hook in self._matching if PRECREATE in hook.stages)
        return Rendered(self._config, tuple(self._plan), tuple(self._warnings), asked)

    def _root(self) -> None:
        root = section(self._config, "root")
        root["path"] = self._facts.root
        if self._definition.read_only is not None:
            root["readonly"] = self._definition.read_only

    def _namespaces(self) -> None:
        definition, linux = self._definition, section(self._config, "linux")
        wanted = dict(definition.namespaces)
        if self._facts.idmap is not None:
            wanted.setdefault("user", namespaces.Namespace("own"))
            linux.update(idmap.linux_section(self._facts.idmap))
        if "user" in wanted and wanted["user"].how != "own":
            for key in ("uidMappings", "gidMappings"):
                linux.pop(key, None)
        others = namespaces.others(wanted)
        paths = {kind: preparation.namespace_path(self._container, kind) for kind in others}
        self._plan += [
            (preparation.JOIN, preparation.value(kind, other)) for kind, other in others.items()
        ]
        if wanted:
            entries = objects(linux, "namespaces")
            linux["namespaces"] = namespaces.section(entries, wanted, paths)
        ours = [*paths.values(), *self._network()]
        for oci_type, path in namespaces.paths(objects(linux, "namespaces")):
            if path not in ours:
                self._plan.append((preparation.NAMESPACE, preparation.value(oci_type, path)))
        self._require_kept_connections()

    def _network(self) -> list[str]:
        """A network that is leased; returns the path of its namespace if a start makes that."""
        network, linux = self._definition.network, section(self._config, "linux")
        if network is None or not network.is_leased:
            return []
        entries = objects(linux, "namespaces")
        is_mapped = any(entry.get("type") == "user" for entry in entries)
        self._plan += network.plan(is_mapped=is_mapped)
        wanted = namespaces.Namespace("path", netns.path(self._container))
        if is_mapped:  # /sys can only be mounted for one that belongs to its user namespace
            wanted = namespaces.Namespace("own")
        linux["namespaces"] = namespaces.section(entries, {"net": wanted}, {})
        return [wanted.where]

    def _require_kept_connections(self) -> None:
        """That a bundle has a network of its own too, where connections are to be kept."""
        definition = self._definition
        if not definition.checkpoint.tcp_keep or (
            definition.network is not None and definition.network.is_leased
        ):
            return
        entries = objects(section(self._config, "linux"), "namespaces")
        if problem := keep_obstacle(namespaces.network(entries)):
            hint = "Add for example  network: none"
            raise self._definition.error("checkpoint.tcp", problem, hint)

    def _process(self) -> None:
        definition, facts = self._definition, self._facts
        process = section(self._config, "process")
        if process.get("terminal"):
            self._warn("process.terminal is ignored: the output of a service goes to the journal")
        process["terminal"] = False
        process.pop("consoleSize", None)
        image = facts.image
        command = definition.command or (image.command if image else ())
        if command:
            process["args"] = list(command)
        if not process.get("args"):
            hint = "Add for example  command: [/sbin/init]"
            raise definition.error("image", "the image does not say what to run", hint)
        cwd = definition.cwd or (image.cwd if image else None)
        if cwd:
            process["cwd"] = cwd
        user = section(process, "user")
        user.update(facts.user)
        if definition.umask is not None:
            user["umask"] = definition.umask
        if definition.rlimits:
            process["rlimits"] = rlimits.section(objects(process, "rlimits"), definition.rlimits)
        self._capabilities(process, user)

    def _capabilities(self, process: Config, user: Config) -> None:
        definition = self._definition
        if self._is_bundle and definition.capabilities is None:
            return
        base = process.get("capabilities") if self._is_bundle else None
        default: tuple[str, ...] = capabilities.DEFAULT
        if self._facts.systemd:
            is_mapped = self._facts.idmap is not None
            default = systemd_config.capability_names(definition, is_mapped=is_mapped)
        try:
            process["capabilities"] = capabilities.section(
                base, definition.capabilities, user.get("uid", 0), self._facts.capabilities, default
            )
        except WrongError as error:
            raise ShapeError(str(error)) from error
        if self._facts.systemd:
            process["noNewPrivileges"] = False  # a system has su(1) and the like
            if "CAP_SYS_ADMIN" in process["capabilities"]["bounding"]:
                said = "with sys_admin its systemd may mount and unshare what CRIU cannot save"
                self._warnings.append(f"{definition.path}: capabilities: {said}")

    def _identity(self) -> None:
        definition, config = self._definition, self._config
        entries = objects(section(config, "linux"), "namespaces")
        uts = next((entry for entry in entries if entry.get("type") == "uts"), None)
        is_own = uts is not None and not uts.get("path")  # runc would rename who else is in it
        peer = self._facts.hostname
        if definition.hostname is not None:
            if not is_own:
                problem = "needs a uts namespace of the container's own"
                raise definition.error("hostname", problem, "Remove it, or namespaces.uts.")
            config["hostname"] = definition.hostname
        elif uts is None or ("uts" in definition.namespaces and not is_own):
            config.pop("hostname", None)
        elif not self._is_bundle:
            config["hostname"] = definition.name
        self._environment(config.get("hostname") or peer)
        self._annotations()

    def _environment(self, hostname: str) -> None:
        process = section(self._config, "process")
        env = _variables(map(str, items(process, "env")))
        if not self._is_bundle:
            env = {"PATH": oci_defaults.PATH}
            if hostname:
                env["HOSTNAME"] = hostname
            env["container"] = "torpor"
            if self._facts.image:
                env.update(_variables(self._facts.image.env))
        if systemd := self._facts.systemd:
            for name, value in systemd_config.environment(systemd.machine_id):
                env.setdefault(name, value)
        env.update(self._definition.env)
        if self._definition.notify == BY_CONTAINER:
            env["NOTIFY_SOCKET"] = f"{readiness.PLACE}/{readiness.SOCKET}"
        if env or "env" in process:
            process["env"] = [
                f"{name}={value}" if value is not None else name for name, value in env.items()
            ]

    def _annotations(self) -> None:
        definition, facts = self._definition, self._facts
        annotations = section(self._config, "annotations")
        if facts.image:
            annotations.update(facts.image.annotations)
        if facts.created:
            annotations.setdefault(CREATED_ANNOTATION, facts.created)
        if facts.stop_signal is not None:
            annotations[STOP_SIGNAL_ANNOTATION] = str(facts.stop_signal)
        annotations.update(definition.annotations)
        annotations[NAME_ANNOTATION] = definition.name

    def _mounts(self) -> None:
        mounting = Mounting(self._definition, self._facts, self._config, self._plan, self._labels)
        mounting.render()
        self._plan = mounting.plan
        self._warnings += mounting.warnings

    @property
    def _labels(self) -> selinux.Labels | None:
        facts = self._facts
        return selinux.labels(self._definition.selinux, facts.selinux, self._definition.name)

    def _linux(self) -> None:
        definition, facts = self._definition, self._facts
        process, linux = section(self._config, "process"), section(self._config, "linux")
        if facts.cgroup_path:
            linux["cgroupsPath"] = facts.cgroup_path
        else:
            linux.pop("cgroupsPath", None)
        for key, paths in (
            ("maskedPaths", definition.masked_paths),
            ("readonlyPaths", definition.readonly_paths),
        ):
            if paths is not None:
                linux[key] = list(paths)
        if facts.devices:
            linux["devices"] = devices.nodes(facts.devices, items(linux, "devices"))
            limits = section(linux, "resources")
            limits["devices"] = devices.rules(facts.devices, items(limits, "devices"))
        self._seccomp(process, linux)
        self._label(process, linux)

    def _label(self, process: Config, linux: Config) -> None:
        """A bundle's own labels stay, unless the definition has some, or there is no SELinux."""
        if self._definition.selinux is None and self._is_bundle and self._facts.selinux:
            return
        process.pop("selinuxLabel", None)
        linux.pop("mountLabel", None)
        if self._labels:
            for part, labels in zip((process, linux), selinux.section(self._labels), strict=True):
                part.update(labels)

    def _seccomp(self, process: Config, linux: Config) -> None:
        wanted = self._definition.seccomp
        bounding = items(section(process, "capabilities"), "bounding")
        machine = seccomp.Facts(self._facts.machine, self._facts.kernel, bounding)
        if wanted is None:
            rules = [] if self._is_bundle else self._withheld()
            if rules:
                linux["seccomp"] = seccomp.all_but(rules, machine)
            return
        linux.pop("seccomp", None)
        if wanted.profile is not None:
            content = self._facts.seccomp_profile
            linux["seccomp"] = seccomp.section(wanted.profile, content, machine)

    def _withheld(self) -> list[Config]:
        """Rules of a container for whose system calls nobody has a profile."""
        facts = self._facts
        rules: list[Config] = []
        if facts.may_filter and self._definition.checkpoint.on:
            rules += withheld.RULES
        if facts.systemd and facts.idmap is None:
            rules.append(systemd_config.NO_KEXEC)
        return rules

    def _hooks(self) -> None:
        """Those of hooks.d whose conditions the rest of the configuration meets."""
        facts = self._facts
        mounts = objects(self._base or {}, "mounts")
        asked = any(mount.kind == mount_list.BIND for mount in self._definition.mounts)
        has_bind_mounts = asked or any(map(mount_list.is_bind, mounts))
        self._matching = hooks_d.matching(
            self._config, facts.hooks, has_bind_mounts=has_bind_mounts
        )
        where = f"{self._definition.bundle}/config.json"
        self._config = hooks_d.inject(self._config, self._matching, where)

    def _warn(self, text: str) -> None:
        self._warnings.append(f"{self._definition.bundle}/config.json: {text}")


def _from_scratch() -> Config:
    return {
        "ociVersion": oci_defaults.OCI_VERSION,
        "process": {
            "cwd": "/",
            "rlimits": rlimits.section((), rlimits.DEFAULT),
            "noNewPrivileges": True,
        },
        "root": {"readonly": False},
        "mounts": oci_defaults.mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": namespaces.default(),
            "maskedPaths": list(oci_defaults.MASKED_PATHS),
            "readonlyPaths": list(oci_defaults.READONLY_PATHS),
        },
    }


def _variables(env: Iterable[str]) -> dict[str, str | None]:
    """NAME=VALUE lines by name; a name without a value stays one."""
    found: dict[str, str | None] = {}
    for line in env:
        name, equals, value = line.partition("=")
        found[name] = value if equals else None
    return found

"""The mounts of a configuration, and what the host must have for them.

What is generated comes first, then what is the bundle's own; a definition's wins over both.
"""

import os
import re
from collections.abc import Iterable, Iterator

from torpor import (
    lease,
    mount_list,
    name_files,
    network,
    oci_defaults,
    preparation,
    readiness,
    selinux,
    systemd_config,
    systemd_mode,
    volumes,
)
from torpor.container import RUN_ROOT, Container
from torpor.definition import BY_CONTAINER, Definition
from torpor.errors import DefinitionError
from torpor.facts import Facts
from torpor.mount_list import Mount
from torpor.oci_config import Config, objects, section
from torpor.preparation import Plan
from torpor.selinux import Labels
from torpor.values import WrongError

# What is planned for the sake of a generated mount alone.
_FILE_OPTIONS = ("bind", "nosuid", "noexec", "nodev")
_HOSTNAME, _RESOLV_CONF, _HOSTS = "/etc/hostname", "/etc/resolv.conf", "/etc/hosts"
_MADE_FOR = {
    oci_defaults.SHM: preparation.SHM,
    _HOSTNAME: preparation.HOSTNAME,
    _RESOLV_CONF: preparation.RESOLV,
    _HOSTS: preparation.HOSTS,
}
# The kinds of networks whose containers have torpor's /etc/hosts.
_NAMED = (network.HOST, lease.BRIDGE, lease.CNI)


class Mounting:
    """The mounts of one configuration in the making; plan and warnings grow with them."""

    def __init__(
        self,
        definition: Definition,
        facts: Facts,
        config: Config,
        plan: Plan,
        labels: Labels | None,
    ) -> None:
        self.plan = plan
        self.warnings: list[str] = []
        self._definition = definition
        self._facts = facts
        self._config = config
        self._labels = labels
        self._is_bundle = definition.bundle is not None
        self._container = Container(definition.name)

    def render(self) -> None:
        """Raises ShapeError, DefinitionError."""
        self._mounts()
        self._sources()
        self._mountpoints()
        if any(map(_is_writable_cgroup, objects(self._config, "mounts"))):
            self.plan.append((preparation.DELEGATE, "yes"))

    def _mounts(self) -> None:
        config, definition = self._config, self._definition
        generated = [*self._shm(), *self._files(), *self._notify(), *self._own_volumes()]
        generated += self._for_systemd(generated)
        wanted = [self._mount(mount) for mount in definition.mounts]
        if not generated and not wanted:
            return
        base, _ = mount_list.merged(objects(config, "mounts"), generated)
        mounts, replaced = mount_list.merged(base, wanted)
        for place in replaced:
            self.warnings.append(f"{definition.path}: mounts: yours replaces that at {place}")
            self.plan = [pair for pair in self.plan if pair[0] != _MADE_FOR.get(place)]
        # A link in a file's place may lead to where something else is mounted, as below /run.
        config["mounts"] = sorted(mounts, key=self._is_generated_file)
        if self._facts.systemd:
            self.plan.append((preparation.INIT, "systemd"))
            if systemd_config.has_tmpfs(config, "/run"):
                self.plan.append((preparation.FURNISH, "yes"))

    def _sources(self) -> None:
        """CRIU opens bind sources as the root of the user namespace, who cannot go everywhere."""
        if not any(key == preparation.OWNER for key, _ in self.plan):
            return
        mounts = objects(self._config, "mounts")
        for number, mount in enumerate(mounts):
            source = mount.get("source")
            if mount_list.is_bind(mount) and isinstance(source, str) and _is_elsewhere(source):
                self.plan.append((preparation.BIND, preparation.value(str(number), source)))
                path = preparation.source_path(self._container, number)
                mounts[number] = {**mount, "source": path}
        self._config["mounts"] = mounts

    def _mountpoints(self) -> None:
        """Where ids are mapped, the places that a restore would make in the rootfs itself."""
        if not any(key == preparation.MAPPED for key, _ in self.plan):
            return
        mounts = objects(self._config, "mounts")
        kernel = [str(m["destination"]) for m in mounts if m.get("type") in ("proc", "sysfs")]
        for mount in mounts:
            place = mount_list.normal(mount.get("destination"))
            is_inside = any(place.startswith(f"{outer.rstrip('/')}/") for outer in kernel)
            if is_inside and not mount_list.is_bind(mount):
                self.plan.append((preparation.MOUNTPOINT, preparation.value(place)))

    def _shm(self) -> list[Config]:
        """/dev/shm: a tmpfs of the host's, so that it can be shared and is saved only when used."""
        definition = self._definition
        present = [
            mount
            for mount in objects(self._config, "mounts")
            if mount_list.normal(mount.get("destination")) == oci_defaults.SHM
        ]
        if self._is_bundle and not present and definition.shm_size_bytes is None:
            return []
        if self._is_bundle and present and mount_list.is_bind(present[-1]):
            return []  # its author has a directory for it
        ipc = definition.namespaces.get("ipc")
        if ipc and ipc.how in ("host", "container") and definition.shm_size_bytes is not None:
            problem = f"is not for the /dev/shm of {ipc.where or 'the host'}, which ipc: shares"
            raise definition.error("shm-size", problem, "Remove it.")
        if ipc and ipc.how == "host":
            return [mount_list.bind(oci_defaults.SHM, oci_defaults.SHM, ["rbind", "noexec"])]
        if ipc and ipc.how == "container":
            source = preparation.shm_path(Container(ipc.where))
        else:
            source = preparation.shm_path(self._container)
            size = definition.shm_size_bytes or _size_bytes(present) or oci_defaults.SHM_SIZE_BYTES
            label = self._labels.mount if self._labels else ""
            context = selinux.mount_option(label) if label else ""
            self.plan.append((preparation.SHM, preparation.value(str(size), context)))
        options = ["bind", "nosuid", "noexec", "nodev"]
        return [mount_list.bind(source, oci_defaults.SHM, options)]

    def _files(self) -> list[Config]:
        """Files that torpor writes, read-only where the container's root is."""
        options = [*_FILE_OPTIONS]
        if section(self._config, "root").get("readonly"):
            options.append("ro")
        found = []
        for place, said in self._file_values():
            if place in self._facts.mountpoints:
                path = preparation.file_path(self._container, os.path.basename(place))
                self.plan.append((_MADE_FOR[place], preparation.value(said)))
                found.append(mount_list.bind(path, place, options))
        return found

    def _file_values(self) -> Iterator[tuple[str, str]]:
        """The place of each file, and what the plan says of its content."""
        hostname = self._config.get("hostname") or self._facts.hostname
        if hostname and not self._is_bundle:
            yield _HOSTNAME, hostname
        wanted = self._definition.network
        if wanted is None or wanted.kind == network.NONE:
            return
        own = {mount_list.normal(m.get("destination")) for m in objects(self._config, "mounts")}
        if _RESOLV_CONF not in own:
            yield _RESOLV_CONF, name_files.HOST if wanted.kind == network.HOST else name_files.OWN
        if _HOSTS not in own and wanted.kind in _NAMED:
            yield _HOSTS, hostname

    def _is_generated_file(self, mount: Config) -> bool:
        directory = os.path.dirname(preparation.file_path(self._container, "any"))
        return str(mount.get("source")).startswith(f"{directory}/")

    def _notify(self) -> list[Config]:
        """The directory with the socket on which the program says that it is ready."""
        if self._definition.notify != BY_CONTAINER:
            return []
        self.plan.append((preparation.NOTIFY, BY_CONTAINER))
        path = readiness.directory(self._container)
        return [mount_list.bind(path, readiness.PLACE, [*_FILE_OPTIONS, "ro"])]

    def _for_systemd(self, generated: list[Config]) -> list[Config]:
        """What it must find where it is PID 1, and is not generated already."""
        found, facts = [], self._facts
        if facts.systemd is None:
            return []
        read_only = bool(section(self._config, "root").get("readonly"))
        mounted = {mount.destination for mount in self._definition.mounts}
        place = systemd_mode.MACHINE_ID_PLACE
        if read_only and not facts.systemd.is_recorded and place not in mounted:
            self.plan.append((preparation.MACHINE_ID, facts.systemd.machine_id))
            path = preparation.file_path(self._container, "machine-id")
            found.append(mount_list.bind(path, place, [*_FILE_OPTIONS, "ro"]))
        base = [*objects(self._config, "mounts"), *generated]
        return [*found, *systemd_config.mounts(self._definition, base, read_only=read_only)]

    def _own_volumes(self) -> list[Config]:
        """What the image declares and the definition names, but for what is mounted there."""
        definition, image = self._definition, self._facts.image
        declared = list(image.volumes if image else ())
        if self._facts.systemd:
            memory = (*systemd_mode.TMPFS, systemd_mode.CGROUP_PLACE)
            declared = [place for place in declared if place not in memory]
        declared += definition.volumes
        mounted = {mount.destination for mount in definition.mounts}
        found = []
        for destination in dict.fromkeys(declared):
            if destination in mounted:
                continue
            source = volumes.own(self._container, destination)
            self.plan.append((preparation.FILL, preparation.value(destination)))
            options = ["bind", "rprivate", "nosuid", "nodev"]  # as podman's for a volume
            found.append(mount_list.bind(source, destination, options))
        return found

    def _mount(self, mount: Mount) -> Config:
        options, shared = mount.options, None
        try:
            options, shared = selinux.relabelling(mount.options)
        except WrongError as error:
            raise self._blamed(mount, error) from error
        source = mount.source
        if mount.kind == mount_list.BIND:
            source = self._facts.sources[mount.source]
        elif mount.kind == mount_list.VOLUME:
            source = volumes.named(mount.source)
            self.plan.append((preparation.VOLUME, mount.source))
        plain = Mount(mount.destination, mount.kind, source, options, mount.recursive)
        if shared is not None and self._labels and self._labels.mount:
            try:
                self._relabel(source, self._labels.mount, shared=shared)
            except WrongError as error:
                raise self._blamed(mount, error) from error
        return mount_list.entry(plain, source)

    def _blamed(self, mount: Mount, error: WrongError) -> DefinitionError:
        return self._definition.error("mounts", error.problem, error.hint, mount.line)

    def _relabel(self, source: str, label: str, *, shared: bool) -> None:
        selinux.relabel(source, label, shared)
        words = preparation.value("shared" if shared else "private", label, source)
        self.plan.append((preparation.RELABEL, words))


def _is_elsewhere(source: str) -> bool:
    """Whether a bind source is outside of the run directories, which let everybody pass."""
    return os.path.isabs(source) and not source.startswith(f"{RUN_ROOT}/")


def _is_writable_cgroup(mount: Config) -> bool:
    return mount.get("type") in ("cgroup", "cgroup2") and "ro" not in (mount.get("options") or ())


def _size_bytes(mounts: list[Config]) -> int:
    """The size= of the last of a bundle's mounts, 0 where it has none (tmpfs(5))."""
    options: Iterable[object] = (mounts[-1].get("options") or ()) if mounts else ()
    sizes = [str(option)[5:] for option in options if str(option).startswith("size=")]
    if not sizes:
        return 0
    number, suffix = sizes[-1].rstrip("kKmMgG"), sizes[-1][-1:].lower()
    if not re.fullmatch("[0-9]{1,15}", number):
        return 0
    return int(number) << {"k": 10, "m": 20, "g": 30}.get(suffix, 0)

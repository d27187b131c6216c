"""What a rendering needs to know of the machine: looked up here, so that rendering is pure."""

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor import (
    accounts,
    bundle,
    capabilities,
    devices,
    hierarchy,
    hooks_d,
    idmap,
    image_store,
    inroot,
    mount_list,
    namespaces,
    oci_layout,
    overlay,
    preparation,
    record,
    regular_file,
    seccomp,
    selinux,
    signals,
    strict_json,
    systemd_config,
    systemd_mode,
    systemd_root,
    withheld,
)
from torpor.accounts import User
from torpor.container import Container
from torpor.definition import Definition
from torpor.devices import Found
from torpor.idmap import IdMap, Range
from torpor.image_config import ImageConfig
from torpor.oci_config import Config
from torpor.oci_hook import Hook
from torpor.selinux import Contexts
from torpor.systemd_root import SystemdRoot
from torpor.values import WrongError
from torpor.yaml_tree import shown

GENERATED_FILES = ("/etc/hostname", "/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True)
class Facts:
    """What a configuration holds that only this machine knows.

    root is what root.path is to be; storage the beginning of the plan that makes it so. user is
    process.user as far as it was looked up. sources are the real paths of bind sources. hostname
    is that of the container whose uts namespace is joined. mountpoints are the files of
    GENERATED_FILES that can be mounted over. systemd is what there is for it where it is PID 1.
    may_filter is whether CRIU can dump who has a seccomp filter.
    """

    root: str
    cgroup_path: str = ""
    storage: tuple[tuple[str, str], ...] = ()
    image: ImageConfig | None = None
    idmap: IdMap | None = None
    user: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    mountpoints: frozenset[str] = frozenset()
    created: str = ""
    stop_signal: int | None = None
    capabilities: Collection[str] = capabilities.NAMES
    devices: tuple[Found, ...] = ()
    machine: str = ""
    kernel: tuple[int, int] = (0, 0)
    seccomp_profile: bytes = b""
    selinux: Contexts | None = None
    hooks: tuple[Hook, ...] = ()
    systemd: SystemdRoot | None = None
    may_filter: bool = False


@dataclass(frozen=True)
class Storage:
    """Where the root file system comes from.

    root is its place in the configuration; lower what exists before the container is started: the
    rootfs, or the image. plan leads from the one to the other.
    """

    root: str
    lower: str
    plan: tuple[tuple[str, str], ...]
    image: ImageConfig | None = None


def storage(definition: Definition, base: Config | None, ids: IdMap | None) -> Storage:
    """Where the definition's root file system comes from; unpacks the image of a layout.

    Raises DefinitionError, and TorporError where it cannot be unpacked.
    """
    container = Container(definition.name)
    mapping = overlay.mapping(ids.uids, ids.gids) if ids else ""
    user = definition.namespaces.get("user")
    is_shared = user is not None and user.how != "own"
    owner = () if is_shared else _owner_plan(ids, base)
    if definition.image is not None:
        lower, image = _image(definition)
        words = preparation.value(image.digest if image else "", mapping, lower)
        plan = ((preparation.OVERLAY, words),)
        return Storage(overlay.rootfs_path(container), lower, owner + plan, image)
    if base is not None:
        root = bundle.resolve_root(definition.bundle or "", base)
    else:
        root = _resolved(definition, "rootfs", definition.rootfs or "")
        if root == "/":
            raise definition.error("rootfs", f"{definition.rootfs} is the machine's own root")
    if ids and os.geteuid() == 0 and os.stat(root).st_uid != idmap.owner(ids)[0]:
        plan = ((preparation.MAPPED, preparation.value(mapping, root)),)
        return Storage(overlay.rootfs_path(container), root, owner + plan)
    return Storage(root, root, (*owner, (preparation.ROOTFS, preparation.value(root))))


def _owner_plan(ids: IdMap | None, base: Config | None) -> tuple[tuple[str, str], ...]:
    uid, gid = idmap.owner(ids) if ids else owner(base or {})
    return ((preparation.OWNER, preparation.value(str(uid), str(gid))),) if uid or gid else ()


def owner(config: Config) -> tuple[int, int]:
    """The host's ids of the container's root, through its user namespace if it has one."""
    ids = []
    for key in ("uidMappings", "gidMappings"):
        mappings = (config.get("linux") or {}).get(key) or []
        ids.append(next((int(m["hostID"]) for m in mappings if m.get("containerID") == 0), 0))
    return ids[0], ids[1]


def _image(definition: Definition) -> tuple[str, ImageConfig | None]:
    image = definition.image
    assert image is not None
    if not image.is_layout:
        return _resolved(definition, "image", image.directory), None
    try:
        config = oci_layout.load(image)
    except WrongError as error:
        raise definition.error("image", error.problem, error.hint) from error
    unpacked = image_store.unpack(image.directory, config.digest, config.manifest_size_bytes)
    return unpacked, config


def _resolved(definition: Definition, key: str, path: str, line: int | None = None) -> str:
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        raise definition.error(key, f"{shown(path)}: {error.strerror}", line=line) from error


def id_map(definition: Definition) -> IdMap | None:
    """The mapping of the container's user namespace, None where the definition has none."""
    if definition.userns is None:
        if definition.idmap is None and os.geteuid() != 0:
            return IdMap((Range(0, os.geteuid(), 1),), (Range(0, os.getegid(), 1),))
        return definition.idmap
    try:
        return idmap.read_subordinate(definition.userns)
    except WrongError as error:
        raise definition.error("userns", error.problem, error.hint) from error


def gather(
    definition: Definition,
    base: Config | None,
    where: Storage,
    ids: IdMap | None,
    root: str,
    cgroup_path: str,
) -> Facts:
    """What the machine says about definition; root is where its root file system can be read.

    Raises DefinitionError.
    """
    container = Container(definition.name)
    rootless = os.geteuid() != 0  # as podman without root: no cgroup, no hooks, no more groups
    profile = definition.seccomp.profile if definition.seccomp else None
    conditions = seccomp.facts(())
    _require_account_files(definition, root)
    user = _user(definition, base, where.image, ids, root)
    systemd = _systemd(definition, base, where.image, root)
    return Facts(
        root=where.root,
        cgroup_path="" if rootless else cgroup_path,
        storage=where.plan,
        image=where.image,
        idmap=ids,
        user=_without_groups(user) if rootless else user,
        sources=_sources(definition),
        hostname=_hostname_of_peer(definition),
        mountpoints=_mountpoints(definition, base, root),
        created=_created(container),
        stop_signal=_stop_signal(definition, where.image, is_systemd=systemd is not None),
        capabilities=capabilities.bounding_set(),
        devices=_devices(definition),
        machine=conditions.machine,
        may_filter=withheld.is_possible(),
        kernel=conditions.kernel,
        seccomp_profile=seccomp.read(profile) if profile else b"",
        selinux=selinux.contexts(),
        hooks=() if rootless else tuple(hooks_d.read()),
        systemd=systemd,
    )


def stamp_paths(definition: Definition, base: Config | None, where: Storage) -> list[str]:
    """The files that gather() and storage() read: a change of one calls for a new rendering."""
    paths = []
    if definition.image is not None and definition.image.is_layout:
        paths.append(oci_layout.index_path(definition.image))
    is_systemd = _is_systemd(definition, base, where.image)
    for path in ("/etc/passwd", "/etc/group", *(systemd_root.FILES if is_systemd else ())):
        for root in _roots(definition, where):
            paths += [f"{root}{path}", _inside(root, path)]
    if definition.userns is not None:
        paths += ["/etc/subuid", "/etc/subgid", "/etc/passwd"]
    if definition.seccomp and definition.seccomp.profile:
        paths.append(definition.seccomp.profile)
    paths += [device.host for device in definition.devices]
    for other in namespaces.others(definition.namespaces).values():
        paths.append(Container(other).rendered_path)
    return list(dict.fromkeys((*paths, "/etc/selinux/config", *hooks_d.stamp_paths())))


def directories(definition: Definition, base: Config | None, where: Storage) -> list[str]:
    """Where gather() found a directory or nothing: anything else calls for a new rendering."""
    paths = []
    for place in systemd_root.PLACES if _is_systemd(definition, base, where.image) else ():
        above, name = os.path.split(place)
        for root in _roots(definition, where):
            paths += [f"{root}{place}", f"{_inside(root, above)}/{name}"]
    return list(dict.fromkeys(paths))


def _roots(definition: Definition, where: Storage) -> list[str]:
    """Where the files of the root file system are before it is mounted."""
    if definition.image is None:
        return [where.lower]
    return [where.lower, f"{overlay.storage_path(Container(definition.name))}/upper"]


def _inside(root: str, path: str) -> str:
    """Where path leads inside root, as a path of the host; itself where it leads nowhere."""
    try:
        handle = inroot.open_handle(root, path)
    except OSError:
        return f"{root}{path}"
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _user(
    definition: Definition,
    base: Config | None,
    image: ImageConfig | None,
    ids: IdMap | None,
    root: str,
) -> dict[str, Any]:
    wanted = definition.user
    if wanted is None and image and image.user:
        wanted = _image_user(definition, image)
    if wanted is None and base is not None:
        if not definition.groups:
            return {}
        said = base["process"].get("user") or {}
        wanted = User(said.get("uid") or 0, said.get("gid") or 0)
        groups = (*(said.get("additionalGids") or ()), *definition.groups)
    else:
        groups = definition.groups
    wanted = wanted or User(0, 0)
    found = accounts.process_user(root, wanted, groups, definition.error)
    return _mapped_user(definition, ids, found)


def _without_groups(user: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in user.items() if key != "additionalGids"}


def _require_account_files(definition: Definition, root: str) -> None:
    """runc reads them too, whoever the user is, and would wait for a pipe."""
    key = "image" if definition.image else "rootfs" if definition.rootfs else "bundle"
    for name in ("passwd", "group"):
        try:
            handle = inroot.open_handle(root, f"/etc/{name}")
        except OSError:
            continue
        try:
            regular_file.require_regular(os.fstat(handle))
        except OSError as error:
            problem = f"{root}/etc/{name}: {error.strerror}"
            raise definition.error(key, problem, "runc reads it: remove or mend it.") from error
        finally:
            os.close(handle)


def _image_user(definition: Definition, image: ImageConfig) -> User:
    from torpor.yaml_tree import Scalar

    try:
        return accounts.parse_user(Scalar(1, image.user, absent=False))
    except WrongError as error:
        problem = f"the image's user {error.problem}"
        raise definition.error("image", problem, "Set user: in the definition.") from error


def _mapped_user(definition: Definition, ids: IdMap | None, user: dict[str, Any]) -> dict[str, Any]:
    """user, whose own ids must exist in the container; groups of its account that do not go."""
    if ids is None:
        return user
    for key, ranges in (("uid", ids.uids), ("gid", ids.gids)):
        if not idmap.covers(ranges, user[key]):
            hint = "Map it with idmap:, or choose another user."
            raise definition.error("user", f"{key} {user[key]} is not mapped", hint)
    groups = [gid for gid in user["additionalGids"] if idmap.covers(ids.gids, gid)]
    return {**user, "additionalGids": groups}


def _sources(definition: Definition) -> dict[str, str]:
    """CRIU cannot restore a bind mount whose source is a link."""
    return {
        mount.source: _resolved(definition, "mounts", mount.source, mount.line)
        for mount in definition.mounts
        if mount.kind == mount_list.BIND
    }


def _systemd(
    definition: Definition, base: Config | None, image: ImageConfig | None, root: str
) -> SystemdRoot | None:
    """What systemd finds in root, None where another program is PID 1."""
    if not _is_systemd(definition, base, image):
        return None
    if (mounted := hierarchy.mount_point()) != systemd_mode.CGROUP_PLACE:
        where = f"mounted at {mounted}, beside controllers of v1" if mounted else "not mounted"
        hint = "Boot this host with systemd.unified_cgroup_hierarchy=1."
        raise systemd_config.blame(definition, f"cgroup v2 is {where}", hint)
    read_only = _is_read_only(definition, base)
    given = image.env if image else (base or {}).get("process", {}).get("env") or ()
    env = [*map(str, given), *(f"{name}={value}" for name, value in definition.env)]
    told = systemd_mode.told_id(env)
    try:
        return systemd_root.look(root, definition.name, read_only=read_only, told=told)
    except WrongError as error:
        raise systemd_config.blame(definition, error.problem, error.hint) from error


def _is_systemd(definition: Definition, base: Config | None, image: ImageConfig | None) -> bool:
    """Whether systemd is PID 1; a bundle stays its author's unless the definition decides."""
    mode = definition.systemd or (systemd_mode.NEVER if base else systemd_mode.AUTO)
    said = (base or {}).get("process", {}).get("args") or ()
    return systemd_mode.applies(mode, definition.command or (image.command if image else said))


def _hostname_of_peer(definition: Definition) -> str:
    other = namespaces.others(definition.namespaces).get("uts")
    if not other:
        return ""
    text = record.read_bytes(Container(other).rendered_path)
    if text is None:
        return other
    try:
        said = strict_json.parse(text)
    except ValueError as error:
        problem = f"{Container(other).rendered_path} is not JSON: {error}"
        raise definition.error("namespaces", problem, f"Render it anew: start {other}.") from error
    return str((said.get("hostname") if isinstance(said, dict) else None) or other)


def _is_read_only(definition: Definition, base: Config | None) -> bool:
    if definition.read_only is not None:
        return definition.read_only
    return bool(((base or {}).get("root") or {}).get("readonly"))


def _mountpoints(definition: Definition, base: Config | None, root: str) -> frozenset[str]:
    if not _is_read_only(definition, base):
        return frozenset(GENERATED_FILES)
    return frozenset(path for path in GENERATED_FILES if _exists(root, path))


def _exists(root: str, path: str) -> bool:
    try:
        os.close(inroot.open_in_root(root, path))
    except OSError:
        return False
    return True


def _created(container: Container) -> str:
    """When the container was first rendered, in the form of RFC 3339; recorded by rendering."""
    text = record.read_bytes(container.created_path) if os.geteuid() == 0 else None
    if text is not None:
        return text.decode("ascii", "replace").strip()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _stop_signal(
    definition: Definition, image: ImageConfig | None, *, is_systemd: bool
) -> int | None:
    if definition.stop_signal is not None:
        return definition.stop_signal
    if image is None or not image.stop_signal:
        return systemd_mode.STOP_SIGNAL if is_systemd else None
    number = signals.parse(image.stop_signal)
    if number is None:
        problem = f"the image's stop signal {image.stop_signal[:40]!a} is none"
        raise definition.error("image", problem, "Set stop-signal: in the definition.")
    return number


def _devices(definition: Definition) -> tuple[Found, ...]:
    found: list[Found] = []
    for device in definition.devices:
        try:
            found += devices.look_up(device)
        except WrongError as error:
            raise definition.error("devices", error.problem, error.hint, error.line) from error
    return tuple(found)

"""What the host must have mounted or made before runc runs a container: its plan.

A plan is key and value pairs, kept with the configuration that refers to what it makes: beside it
in the state directory, in the run directory while the container runs, in each generation. So a
sleeper finds what it ran with, whatever a newer torpor would plan today. All of it is of this
boot, in the run directory; only volumes and an overlay's upper layer are durable.
"""

import os

from torpor import mounts, process, program, record, runc
from torpor.container import RUN_ROOT, STATE_ROOT, Container
from torpor.errors import TorporError
from torpor.rootfs import identity

# The keys of a plan. In a value, words are separated by tabs; a path is the last one.
OWNER = "owner"  # UID GID of the container's root on the host, where that is not root
OVERLAY = "overlay"  # DIGEST IDS IMAGE: the rootfs is what the container wrote over an image
MAPPED = "mapped"  # IDS ROOTFS: the rootfs is a directory with its ids mapped
MOUNTPOINT = "mountpoint"  # DESTINATION below a file system of the kernel, for MAPPED
ROOTFS = "rootfs"  # PATH: neither; volumes are filled from it
SHM = "shm"  # SIZE_BYTES CONTEXT: a tmpfs for /dev/shm
HOSTNAME = "hostname"  # what /etc/hostname holds
MACHINE_ID = "machine-id"  # what /etc/machine-id holds
NETWORK = "network"  # KEY WORD...: what it asks for a lease, see network.Network.plan
RESOLV = "resolv"  # "host" or "own": whose loopback the name servers of /etc/resolv.conf may be on
HOSTS = "hosts"  # what it is called in /etc/hosts
NOTIFY = "notify"  # its program itself says when it is ready
INIT = "init"  # "systemd": what its PID 1 is, where that matters
FURNISH = "furnish"  # what that must be told is put into its /run before it begins
JOIN = "join"  # KIND NAME: a namespace of another container
NAMESPACE = "namespace"  # TYPE PATH: one that somebody else keeps, with OCI's word for it
VOLUME = "volume"  # NAME: a named volume
FILL = "fill"  # DESTINATION: a volume of the container's own
BIND = "bind"  # NUMBER SOURCE: a bind source where a user namespace's root can reach it
RELABEL = "relabel"  # shared|private LABEL PATH
CGROUP = "cgroup"  # PATH: where the payload is, if not in the unit's cgroup
CGROUP_IN_UNIT = "cgroup-in-unit"  # NAME: what it is called there, if not as usual
DELEGATE = "delegate"  # the container's root makes cgroups below its own
SYSTEMD = "systemd-cgroup"  # runc asks systemd for that cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FORM = "plan"
_SEPARATOR = "\t"
_UNSPEAKABLE = (_SEPARATOR, "\n", "\0")
_RELABEL_TIMEOUT_S = 600.0
# Who knows a name passes, nobody sees the names.
_PASSABLE = 0o711

Plan = list[tuple[str, str]]


def shm_path(container: Container) -> str:
    """Where the container's /dev/shm is mounted on the host."""
    return f"{container.run_dir}/shm"


def namespace_path(container: Container, kind: str) -> str:
    """Where another container's namespace is bound for this one: the same place at each wake."""
    return f"{container.run_dir}/ns/{kind}"


def file_path(container: Container, name: str) -> str:
    """Where a file is that torpor writes and the container has mounted."""
    return f"{container.run_dir}/files/{name}"


def source_path(container: Container, number: int) -> str:
    """Where a bind source is bound for a container whose root may not pass through to it."""
    return f"{container.run_dir}/sources/{number}"


def value(*words: str) -> str:
    """Words as one value. Raises TorporError for what would move or cut them."""
    for word in words:
        if any(char in word for char in _UNSPEAKABLE):
            raise TorporError(f"{word!a} holds a tab, a line break or a NUL", "rename it")
    return _SEPARATOR.join(words)


def serialize(plan: Plan) -> bytes:
    return record.serialize(_FORM, plan)


def read(path: str) -> Plan:
    """The plan at path, empty where there is none. Raises RecordError."""
    text = record.read_bytes(path)
    return record.parse(text, _FORM, path) if text is not None else []


def first(plan: Plan, key: str) -> str:
    return next((said for name, said in plan if name == key), "")


def prepare(container: Container, plan: Plan) -> list[str]:
    """Make all that plan says; what an earlier run left must be gone. Returns warnings.

    Raises TorporError, OSError: undo() removes what was made.
    """
    warnings: list[str] = []
    record.make_directory(container.run_dir)
    if first(plan, OWNER):
        _let_pass(container, _owner(plan)[1])
    for key, said in plan:
        if key in _READ_ELSEWHERE:
            continue
        words = said.split(_SEPARATOR)
        if key not in _STEPS or len(words) != _WORDS.get(key, 1):
            raise TorporError(
                f"its plan says {key}={said!a}, which this torpor does not know",
                "it was made by a newer one: install that again, or forget its memory with "
                f"'torpor discard {container.name}'",
            )
        warnings += _STEPS[key](container, plan, words) or []
    _require_own_dev(root(container, plan))
    return warnings


def root(container: Container, plan: Plan) -> str:
    """Where the root file system is while the container runs; empty in plans that do not say."""
    if first(plan, OVERLAY) or first(plan, MAPPED):
        return f"{container.run_dir}/rootfs"
    return first(plan, ROOTFS)


def _require_own_dev(root: str) -> None:
    """runc makes what is in /dev from outside of the container: through a link, on the host."""
    if root and os.path.islink(f"{root}/dev"):
        raise TorporError(
            f"{root}/dev is a link, through which runc would write to the host",
            "make it a directory",
        )


def sources(config: "dict[str, Any]", plan: Plan) -> list[str]:
    """The bind sources of a container that are not torpor's to make."""
    mounted = [str(mount.get("source") or "") for mount in config.get("mounts") or []]
    bound = [said.partition(_SEPARATOR)[2] for key, said in plan if key == BIND]
    ours = (f"{RUN_ROOT}/", f"{STATE_ROOT}/")
    return [path for path in (*mounted, *bound) if path[:1] == "/" and not path.startswith(ours)]


def durable_identity(
    container: Container, plan: Plan, instead: "Mapping[str, str] | None" = None
) -> str:
    """Identifies the volumes that a container has. Raises TorporError where one is missing.

    instead has for a volume's path that of what is to be there.
    """
    from torpor import volumes

    found = []
    for key, said in plan:
        if key not in (VOLUME, FILL):
            continue
        path = volumes.named(said) if key == VOLUME else volumes.own(container, said)
        try:
            found.append(identity((instead or {}).get(path, path)))
        except OSError as error:
            raise TorporError(
                f"its volume {path}: {error.strerror}",
                "is its file system mounted? its memory is of no use without it: to forget that, "
                f"run 'torpor discard {container.name}'",
            ) from error
    return " ".join(found)


def write_hosts(container: Container, plan: Plan) -> None:
    """Write /etc/hosts with the addresses of the container's lease, while it runs too.

    prepare() has done so already if it had its lease by then. Raises OSError, RecordError.
    """
    for key, hostname in plan:
        if key == HOSTS:
            _hosts(container, plan, [hostname])


def takes_long(plan: Plan) -> bool:
    """Whether files may have to be copied or labelled first."""
    return any(key in (FILL, RELABEL) for key, _ in plan)


def prepare_root(container: Container, plan: Plan) -> list[str]:
    """Of a plan, only what mounts the root file system; repeatable."""
    return prepare(container, [pair for pair in plan if pair[0] in _ROOT])


def show_root(container: Container, plan: Plan) -> None:
    """Mount what the container wrote over its image, for a look, in the caller's mount namespace.

    Raises TorporError.
    """
    from torpor import overlay

    _, ids, image = first(plan, OVERLAY).split(_SEPARATOR)
    overlay.mount_to_look(container, image, ids)


def undo(container: Container) -> list[str]:
    """Unmount all that was mounted in the run directory, deepest first; warnings of what stays.

    Nothing needs to be known of what was prepared, nor how far it came; repeatable.
    """
    sources = f"{container.run_dir}/sources"
    found = mounts.below(container.run_dir)
    # Until a copy of a tree is private, as it is unless mount(8) was killed in the middle, to
    # unmount what is in it reaches the original (mount_namespaces(7)).
    tied = [
        path
        for path in found
        if os.path.dirname(path) == sources
        and program.run(["mount", "--make-rprivate", path], timeout_s=mounts.TIMEOUT_S)
    ]
    return [
        f"{path} cannot be unmounted; see: findmnt {path}"
        for path in found
        if path.startswith(tuple(tied)) or not mounts.detach(path)
    ]


def joins(plan: Plan, *kinds: str) -> bool:
    """Whether the container's namespace of a kind, with what is in it, is somebody else's.

    A kind has a word of ours and one of OCI.
    """
    foreign = (said for key, said in plan if key in (JOIN, NAMESPACE))
    return any(said.partition(_SEPARATOR)[0] in kinds for said in foreign)


def _let_pass(container: Container, gid: int) -> None:
    """Let the root of a user namespace, and nobody else, through to what is mounted for it."""
    os.chmod(os.path.dirname(container.run_dir), _PASSABLE)
    os.chown(container.run_dir, 0, gid)
    os.chmod(container.run_dir, 0o710)


def _owner(plan: Plan) -> tuple[int, int]:
    uid, _, gid = (first(plan, OWNER) or f"0{_SEPARATOR}0").partition(_SEPARATOR)
    return int(uid), int(gid)


def _overlay(container: Container, plan: Plan, words: list[str]) -> list[str]:
    from torpor import overlay

    digest, ids, image = words
    if os.path.ismount(overlay.rootfs_path(container)):
        return []
    if digest and not os.path.isdir(image):
        raise TorporError(
            f"the unpacked image {image} is gone", "its layout is unpacked anew when it is rendered"
        )
    return overlay.mount(container, image, digest, ids)


def _mapped(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import overlay

    ids, rootfs = words
    if not os.path.ismount(overlay.rootfs_path(container)):
        overlay.mount_mapped(container, rootfs, ids)


def _mountpoint(container: Container, plan: Plan, words: list[str]) -> None:
    """runc makes it at a restore as the host's root, who has no id where ids are mapped."""
    from torpor import inroot

    _, rootfs = first(plan, MAPPED).split(_SEPARATOR)
    inroot.make_directories(rootfs, words[0])


def _shm(container: Container, plan: Plan, words: list[str]) -> None:
    uid, gid = _owner(plan)
    size_bytes, context = words
    options = f"noexec,nosuid,nodev,mode=1777,size={size_bytes},uid={uid},gid={gid}"
    if context:
        options += f",{context}"
    path = shm_path(container)
    record.make_directory(path)
    mounts.mount(["-t", "tmpfs", "-o", options, "shm", path])


def _hostname(container: Container, plan: Plan, words: list[str]) -> None:
    _write_file(container, "hostname", f"{words[0]}\n".encode())


def _machine_id(container: Container, plan: Plan, words: list[str]) -> None:
    _write_file(container, "machine-id", f"{words[0]}\n".encode())


def _resolv(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import name_files

    if words[0] == name_files.HOST:
        content = name_files.resolv_conf_of_host()
    else:
        content = name_files.resolv_conf()
    _write_file(container, "resolv.conf", content)


def _hosts(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import lease, name_files

    if not first(plan, NETWORK):  # then it has the host's
        content = name_files.hosts_of_host((words[0], container.name))
    else:
        found = lease.read(container)
        addresses = (found.address, found.address6) if found else ()
        content = name_files.hosts(addresses, (words[0], container.name))
    _write_file(container, "hosts", content)


def _notify(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import readiness

    readiness.make_directory(container)


def _write_file(container: Container, name: str, content: bytes) -> None:
    path = file_path(container, name)
    record.make_directory(os.path.dirname(path), _PASSABLE)
    _write(path, content)


def _write(path: str, content: bytes) -> None:
    """A file that anybody in the container may read; in place, where it may be mounted already."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(fd, 0o644)
        record.write_all(fd, content)
    except OSError as error:
        raise record.naming(path, error, len(content)) from error
    finally:
        os.close(fd)


def _join(container: Container, plan: Plan, words: list[str]) -> None:
    kind, name = words
    other = Container(name)
    pid = runc.init_pid(other)
    if not pid:
        raise TorporError(
            f"its {kind} namespace is that of {name}, which is not running",
            f"systemctl start {other.unit}",
        )
    path = namespace_path(container, kind)
    record.make_directory(os.path.dirname(path))
    _write(path, b"")
    mounts.mount(["--bind", f"/proc/{pid}/ns/{kind}", path])
    # Only now: a pid that was used again meanwhile must not lead into a namespace of the host.
    if not _is_of(pid, other):
        mounts.detach(path)
        raise TorporError(
            f"{name}, whose {kind} namespace it shares, has ended", f"systemctl start {other.unit}"
        )


def _is_of(pid: int, container: Container) -> bool:
    place = first(read(container.plan_path), CGROUP) or f"/{container.unit}"
    lines = process.read_small(f"/proc/{pid}/cgroup").splitlines()
    return any(f"{place}/" in f"{line}/" for line in lines)


def _namespace(container: Container, plan: Plan, words: list[str]) -> None:
    oci_type, path = words
    if not os.path.exists(path):
        raise TorporError(
            f"its {oci_type} namespace {path} does not exist",
            "make it again, as ip netns add NAME makes /run/netns/NAME",
        )


def _volume(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import volumes

    volumes.prepare(volumes.named(words[0]), _owner(plan))


def _fill(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import volumes

    path = volumes.own(container, words[0])
    volumes.prepare(path, _owner(plan), root(container, plan), words[0])


def _bind(container: Container, plan: Plan, words: list[str]) -> None:
    number, source = words
    path = source_path(container, int(number))
    record.make_directory(os.path.dirname(path), _PASSABLE)
    if os.path.isdir(source):
        record.make_directory(path)
    else:
        _write(path, b"")
    mounts.mount(["--rbind", "--make-rprivate", source, path])


def _relabel(container: Container, plan: Plan, words: list[str]) -> None:
    from torpor import selinux

    how, label, path = words
    argv = selinux.relabel(path, label, shared=how == "shared")
    if _label_of(path) == argv[-2]:
        return  # as it left it; what the container made since has its own
    if reason := program.run(argv, timeout_s=_RELABEL_TIMEOUT_S):
        raise TorporError(f"cannot relabel {path}: {reason}", "remove z or Z from its options")


def _label_of(path: str) -> str:
    try:
        return os.getxattr(path, "security.selinux").rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        return ""


_ROOT = (OWNER, OVERLAY, MAPPED, ROOTFS)
_READ_ELSEWHERE = frozenset(
    (OWNER, ROOTFS, CGROUP, CGROUP_IN_UNIT, DELEGATE, SYSTEMD, INIT, FURNISH, NETWORK)
)
_WORDS = {OVERLAY: 3, RELABEL: 3, MAPPED: 2, SHM: 2, JOIN: 2, NAMESPACE: 2, BIND: 2}
_STEPS = {
    OVERLAY: _overlay,
    MAPPED: _mapped,
    MOUNTPOINT: _mountpoint,
    SHM: _shm,
    HOSTNAME: _hostname,
    MACHINE_ID: _machine_id,
    RESOLV: _resolv,
    HOSTS: _hosts,
    NOTIFY: _notify,
    JOIN: _join,
    NAMESPACE: _namespace,
    VOLUME: _volume,
    FILL: _fill,
    BIND: _bind,
    RELABEL: _relabel,
}

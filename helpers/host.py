"""What this host has of what torpor needs, and what to do about the rest."""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torpor import cgroup, criu, networking, process
from torpor.container import RUNC_ROOT, STATE_ROOT
from torpor.errors import RuntimeFailedError
from torpor.process import read_small
from torpor.talk import mebibytes

OK, WARNING, PROBLEM = "ok", "warning", "problem"

Version = tuple[int, ...]

_SYSTEMD_MINIMUM = (254,)  # DelegateSubgroup=
_KERNEL_MINIMUM = (5, 14)  # cgroup.kill
# From this kernel on SO_PASSCRED is refused on TCP sockets, which older CRIUs ask for.
_KERNEL_STRICT_PASSCRED = (6, 16)
_CRIU_FOR_STRICT_PASSCRED = (4, 2)
_CHECK_TIMEOUT_S = 30.0
_FREE_MINIMUM_BYTES = 1 << 30
_CHECKPOINT_RESTORE = 40  # capability(7); python-prctl knows no name for it


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. remedy is empty where nothing is to be done."""

    name: str
    level: str
    found: str
    remedy: str = ""


def findings() -> list[Finding]:
    """Everything, in the order in which a person would put it right."""
    checks: tuple[Callable[[], Iterable[Finding]], ...] = (
        _systemd, _kernel, _cgroups, _runc, _criu, _tar, _network_lock, _networks,
        _capabilities, _free_space, _left_overs,
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


def version_in(text: str) -> Version:
    """The first dotted number in a text: (6, 18, 44) of 6.18.44-fc; () where there is none."""
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _systemd() -> Iterable[Finding]:
    _, text = process.output(["systemctl", "--version"])
    booted = read_small("/proc/1/comm").strip() == "systemd" and os.path.isdir(
        "/run/systemd/system"
    )
    yield judge_systemd(version_in(text), booted=booted)


def judge_systemd(version: Version, *, booted: bool) -> Finding:
    wanted = f"torpor needs systemd >= {dotted(_SYSTEMD_MINIMUM)} as PID 1"
    if not booted:
        return Finding("systemd", PROBLEM, "is not PID 1 here", wanted)
    level = OK if version >= _SYSTEMD_MINIMUM else PROBLEM
    return Finding("systemd", level, dotted(version) or "not found", "" if level == OK else wanted)


def _kernel() -> Iterable[Finding]:
    release = os.uname().release
    if version_in(release) < _KERNEL_MINIMUM:
        wanted = f"boot Linux >= {dotted(_KERNEL_MINIMUM)}: older ones have no cgroup.kill"
        yield Finding("kernel", PROBLEM, release, wanted)
    else:
        yield Finding("kernel", OK, release)


def _cgroups() -> Iterable[Finding]:
    try:
        mounted = cgroup.mount_point()
    except RuntimeFailedError as error:
        yield Finding("cgroup v2", PROBLEM, error.message, error.hint)
        return
    yield Finding("cgroup v2", OK, f"mounted at {mounted}")
    directory = _any_cgroup(mounted)
    missing = [
        file
        for file in ("cgroup.freeze", "cgroup.kill")
        if not os.path.exists(f"{directory}/{file}")
    ]
    found = f"no {' and no '.join(missing)} in {directory}"
    remedy = f"boot Linux >= {dotted(_KERNEL_MINIMUM)}"
    if missing:
        yield Finding("cgroup files", PROBLEM, found, remedy)
    else:
        yield Finding("cgroup files", OK, "cgroup.freeze and cgroup.kill")
    yield judge_cgroup_v1(read_small("/proc/self/cgroup"))


def _any_cgroup(mounted: str) -> str:
    """A cgroup directory that is not the root, which has none of the files: ours, or any other."""
    for line in read_small("/proc/self/cgroup").splitlines():
        own = mounted + line[3:]
        if line.startswith("0::/") and len(line) > 4 and os.path.isdir(own):
            return own
    with os.scandir(mounted) as entries:
        return next((entry.path for entry in entries if entry.is_dir()), mounted)


def judge_cgroup_v1(own: str) -> Finding:
    """own: /proc/self/cgroup, with a line ``ID:CONTROLLERS:PATH`` for each hierarchy."""
    controllers = [
        name
        for line in own.splitlines()
        for name in line.split(":")[1].split(",")
        if name and not name.startswith("name=")
    ]
    if not controllers:
        return Finding("cgroup v1", OK, "no controllers")
    return Finding(
        "cgroup v1",
        WARNING,
        f"has the controllers {', '.join(sorted(controllers))}: a unit's limits of these have no "
        "effect",
        "boot with the kernel option cgroup_no_v1=all: CRIU also saves, and makes again, what is "
        "in them below the cgroups of a container's processes",
    )


def _runc() -> Iterable[Finding]:
    if not shutil.which("runc"):
        yield Finding("runc", PROBLEM, "not found", "install runc")
        return
    status, text = process.output(["runc", "--version"])
    version = version_in(text)
    if status != 0 or not version:
        yield Finding(
            "runc", PROBLEM, f"runc --version ends with status {status}", "reinstall runc"
        )
    else:
        yield Finding("runc", OK, dotted(version))


def _criu() -> Iterable[Finding]:
    if not shutil.which("criu"):
        yield Finding("CRIU", PROBLEM, "not found", "install criu")
        return
    version = criu.version()
    if version < criu.MINIMUM:
        wanted = f"install CRIU >= {dotted(criu.MINIMUM)}"
        yield Finding("CRIU", PROBLEM, dotted(version) or "its version is unknown", wanted)
    else:
        yield Finding("CRIU", OK, dotted(version))
    yield judge_criu_check(*_run_criu_check())
    yield judge_pair(version_in(os.uname().release), version)


def _run_criu_check() -> tuple[int, str]:
    """Its exit status, and what it wrote to either stream."""
    reader, writer = os.pipe()
    try:
        child = process.spawn(["criu", "check"], stdout=writer, stderr=writer)
    except OSError as error:
        os.close(reader)
        return 127, str(error)
    finally:
        os.close(writer)
    return process.collect(child, reader, _CHECK_TIMEOUT_S)


def judge_criu_check(status: int, text: str) -> Finding:
    words = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("): ")[2] or line for line in words if "Error" in line]
    said = "; ".join(errors[:3]) or (words[-1] if words else "it said nothing")
    if status == 0:
        return Finding("criu check", OK, said)
    if status == -9:
        said = f"no answer within {_CHECK_TIMEOUT_S:.0f} s; {said}"
    remedy = "see: criu check --all; the kernel lacks an option or this process a capability"
    return Finding("criu check", PROBLEM, said, remedy)


def judge_pair(kernel: Version, criu_version: Version) -> Finding:
    """Linux and CRIU can both be good and yet not go together."""
    pair = f"Linux {dotted(kernel)} with CRIU {dotted(criu_version)}"
    if kernel >= _KERNEL_STRICT_PASSCRED and criu_version < _CRIU_FOR_STRICT_PASSCRED:
        return Finding(
            "TCP sockets",
            PROBLEM,
            f'{pair} cannot dump any ("sockets: Can\'t get 1:16 opt")',
            f"install CRIU >= {dotted(_CRIU_FOR_STRICT_PASSCRED)}, "
            f"or boot Linux < {dotted(_KERNEL_STRICT_PASSCRED)}",
        )
    return Finding("TCP sockets", OK, pair)


def _tar() -> Iterable[Finding]:
    if shutil.which("tar"):
        yield Finding("tar", OK, "found")
    else:
        yield Finding("tar", PROBLEM, "not found: CRIU keeps each tmpfs with it", "install tar")


def _network_lock() -> Iterable[Finding]:
    if method := criu.tcp_lock():
        yield Finding("network lock", OK, method)
    else:
        yield Finding(
            "network lock",
            WARNING,
            "neither this CRIU with nftables nor iptables: no TCP connection can be kept asleep",
            "install iptables, or a criu that was built with nftables, if some are to be kept",
        )


def _networks() -> Iterable[Finding]:
    missing = [tool for tool in ("ip", "nft") if not shutil.which(tool)]
    if missing:
        found = f"not found: {', '.join(missing)}; containers can have no bridge"
        yield Finding("networks", WARNING, found, "install iproute2 and nftables")
        return
    left = networking.nobodys()
    if left:
        found = f"nobody's any more: those of {', '.join(left)}"
        remedy = "the next start of a container on a bridge or CNI network removes them"
        yield Finding("networks", WARNING, found, remedy)
    elif bridges := networking.idle_bridges():
        found = f"torpor made them and nobody is on them: {', '.join(bridges)}"
        remedy = f"unless a container starts just now: ip link delete {bridges[0]}"
        yield Finding("networks", WARNING, found, remedy)
    else:
        yield Finding("networks", OK, "ip and nft")


def _capabilities() -> Iterable[Finding]:
    try:
        import prctl
    except ImportError:
        yield Finding("capabilities", WARNING, "unknown", "install python3-prctl")
        return
    held = {
        "CAP_SYS_ADMIN": prctl.cap_effective.sys_admin,
        "CAP_SYS_PTRACE": prctl.cap_effective.sys_ptrace,
        "CAP_SYS_RESOURCE": prctl.cap_effective.sys_resource,
        "CAP_CHECKPOINT_RESTORE": prctl.capbset_read(_CHECKPOINT_RESTORE),
    }
    yield judge_capabilities([name for name, has in held.items() if not has])


def judge_capabilities(missing: list[str]) -> Finding:
    if not missing:
        return Finding("capabilities", OK, "all that CRIU needs")
    found = f"no {', no '.join(missing)}"
    remedy = "run it on the host itself, or give its container or virtual machine all capabilities"
    if "CAP_SYS_ADMIN" in missing or "CAP_SYS_PTRACE" in missing:
        return Finding("capabilities", PROBLEM, f"{found}: CRIU cannot work", remedy)
    found += ": processes of users other than root cannot be dumped outside a user namespace"
    return Finding("capabilities", WARNING, found, remedy)


def _free_space() -> Iterable[Finding]:
    path = STATE_ROOT
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    if free < _FREE_MINIMUM_BYTES:
        remedy = f"a sleeping container needs the size of its memory: make room at {STATE_ROOT}"
        yield Finding("free space", WARNING, f"{mebibytes(free)} at {STATE_ROOT}", remedy)
    else:
        yield Finding("free space", OK, f"{mebibytes(free)} at {STATE_ROOT}")


def _left_overs() -> Iterable[Finding]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        yield from judge_mounts(table.read())


def judge_mounts(mountinfo: str) -> list[Finding]:
    """What killed restores leave mounted (/proc/pid/mountinfo in proc_pid_mountinfo(5))."""
    mounted = [
        _unescape(fields[4])
        for line in mountinfo.splitlines()
        if len(fields := line.split(" ")) > 4
    ]
    roots = [
        path for path in mounted if path.startswith(f"{RUNC_ROOT}/") and path.endswith("/criu-root")
    ]
    trees = [path for path in mounted if re.fullmatch(r"/tmp/\.criu\.mntns\.[^/]+", path)]
    found = [
        Finding(
            "left-overs",
            PROBLEM,
            f"{path} is mounted: the next 'runc delete' would delete the files of a container's "
            "rootfs through it",
            f"unless a restore runs just now: umount --lazy {path}",
        )
        for path in roots
    ]
    if trees:
        remedy = f"unless a restore runs just now: umount --lazy {' '.join(trees)}"
        found.append(
            Finding("left-overs", WARNING, f"{len(trees)} mounts of killed restores", remedy)
        )
    return found or [Finding("left-overs", OK, "none")]


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)

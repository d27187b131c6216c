"""What a rendering is made from, without a machine: definitions, a bundle, facts."""

from collections.abc import Mapping
from typing import Any

from torpor import spec
from torpor.definition import Definition, parse
from torpor.facts import GENERATED_FILES, Facts

CGROUP = "/torpor.slice/torpor@web.service/payload"
BUNDLE = "/srv/bundle"
RUN = "/run/torpor/web"
ROOTFS = "rootfs: /srv/web\ncommand: [/bin/app, x]\n"
FACTS = {
    "root": "/srv/web",
    "cgroup_path": CGROUP,
    "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
    "mountpoints": frozenset(GENERATED_FILES),
    "created": "2025-01-02T03:04:05Z",
}


def facts_with(said: Mapping[str, Any]) -> Facts:
    return Facts(**said)


def define(text: str = "", tree: str = ROOTFS) -> Definition:
    return parse("web", "web.yaml", f"{tree}{text}".encode())


def made(text: str = "", **facts: object) -> spec.Rendered:
    """A rendering of a container with a rootfs."""
    return spec.render(define(text), None, facts_with({**FACTS, **facts}))


def made_of(base: dict[str, Any], text: str = "", **facts: object) -> spec.Rendered:
    """A rendering of a container with base in its bundle."""
    said = {**FACTS, "user": {}, **facts}
    return spec.render(define(text, f"bundle: {BUNDLE}\n"), base, facts_with(said))


def mount_at(config: dict[str, Any], destination: str) -> dict[str, Any]:
    """The one mount there."""
    found: dict[str, Any]
    (found,) = (one for one in config["mounts"] if one["destination"] == destination)
    return found


def runc_spec() -> dict[str, Any]:
    """What `runc spec` of runc 1.1 prints, but for most of its paths below /proc."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    sets = ("bounding", "effective", "permitted", "ambient")
    private = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(capabilities) for name in sets},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": [
            _mount("/proc", "proc", "proc", []),
            _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "gid=5"]),
            _mount("/dev/shm", "tmpfs", "shm", [*private, "mode=1777", "size=32m"]),
            _mount("/dev/mqueue", "mqueue", "mqueue", private),
            _mount("/sys", "sysfs", "sysfs", [*private, "ro"]),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*private, "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}

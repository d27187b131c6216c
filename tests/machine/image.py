"""The base image of the test machines: a small Debian tree, built once and cached.

The cache directory is named after a hash of the recipe, so a changed recipe builds a new
image and an old one is never used by mistake.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# What torpor is made for; MACHINE=sid shows what will become of it.
STABLE, UNSTABLE = "trixie", "sid"
SUITE = os.environ.get("MACHINE") or STABLE

PACKAGES = (
    # the system torpor runs on
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "runc",
        "criu",
        "libcriu2",  # crun checkpoints with it
        "python3-pycriu",
        "iptables",
        "nftables",
        "iproute2",
        "procps",
    ),
    # what torpor itself is written in
    *(
        "python3",
        "python3-pystemd",
        "python3-pyroute2",
        "python3-prctl",
        "python3-yaml",
        "python3-xxhash",
    ),
    # payloads of the tests, and the tools to build and watch them
    *(
        "busybox-static",
        "redis-server",
        "redis-tools",
        "gcc",
        "libc6-dev",
        "python3-pytest",
        "strace",
        "umoci",
    ),
    # others that run containers, with torpor's hooks
    "crun",
    "podman",
    # other people's networks
    "containernetworking-plugins",
    # archives of containers, and another who reads them
    *("zstd", "openssh-client", "checkpointctl"),
    # and from host to host
    "openssh-server",
    # a machine can hold a machine
    "systemd-container",
)

# What no test reads of any package
DOCUMENTATION = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
)

# Directories and files of those packages that no test reads; each machine copies the image.
EXCLUDED = (
    *DOCUMENTATION,
    "/usr/lib/gcc/*/lto1",
    "/usr/libexec/gcc/*/lto1",
    "/usr/bin/*lto-dump*",
    "/usr/lib/*san.a",
    "/usr/lib/*san.so*",
    "/usr/lib/udev/hwdb.d/*",
)

# Units that wait for hardware, a console or the network, or that start work of their own later.
MASKED_UNITS = (
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-modules-load.service",
    *(f"modprobe@{module}.service" for module in ("configfs", "drm", "efi_pstore", "fuse")),
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "systemd-networkd-wait-online.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
)

DISABLED_UNITS = ("redis-server.service", "ssh.service")

# CRIU 4.1.1, which the suite ships, sets SO_PASSCRED on every socket it dumps. Kernels since
# 6.16 refuse that on a TCP socket ("sockets: Can't get 1:16 opt"); CRIU 4.2.1 knows.
PASSCRED_REFUSED_SINCE = (6, 16)
NEWER_CRIU = tuple(f"{name}/{UNSTABLE}" for name in ("criu", "libcompel1", "python3-pycriu"))
# A mirror may be a while behind: its signature expires soon for a suite that changes daily.
ANY_AGE = "Acquire::Check-Valid-Until"
# Nothing comes from there but what is asked for.
PIN = "Package: *\nPin: release n={suite}\nPin-Priority: 50\n"

HERE = Path(__file__).resolve().parent


class ImageError(Exception):
    """The base image could not be built."""


def say(text: str) -> None:
    """One line on what is going on, for whoever waits."""
    print(f"machine: {text}", file=sys.stderr, flush=True)


def kernel_version() -> tuple[int, int]:
    """Major and minor version of the running kernel."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def needs_newer_criu() -> bool:
    """Whether the suite's own does not know the running kernel."""
    return SUITE == STABLE and kernel_version() >= PASSCRED_REFUSED_SINCE


def recipe() -> dict[str, object]:
    """Everything the image depends on."""
    return {
        "format": 1,
        "suite": SUITE,
        "packages": PACKAGES,
        "excluded": EXCLUDED,
        "masked": MASKED_UNITS,
        "disabled": DISABLED_UNITS,
        "newer_criu": NEWER_CRIU if needs_newer_criu() else (),
        "architecture": platform.machine(),
    }


def cache_directory() -> Path:
    """Where images are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "torpor"


def cached_path(kind: str, recipe: dict[str, object]) -> Path:
    """Where the tree of a recipe is, or will be."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return cache_directory() / f"{kind}-{digest[:12]}"


def image_path() -> Path:
    """Where the image of the present recipe is, or will be."""
    return cached_path("base", recipe())


def require_packages(*packages: str) -> None:
    """Install what the host lacks; Debian only."""
    done = subprocess.run([HERE / "host-packages", *packages], check=False)
    if done.returncode:
        raise ImageError("the host lacks packages: " + " ".join(packages))


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; wait for whoever has it."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def logged(log: Path, *argv: str | Path) -> None:
    """Run a program of the build with its output in a log; show the end of it on failure."""
    with log.open("ab") as output:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise ImageError(f"{argv[0]} failed with status {done.returncode}:\n{tail}")


def install_from(root: Path, log: Path, suite: str, packages: Sequence[str]) -> None:
    """Install packages of another suite of Debian, as NAME/SUITE, and nothing else of it."""
    apt = root / "etc/apt"
    lines = (apt / "sources.list").read_text().splitlines()
    stable = next(line for line in lines if f" {SUITE} main" in line)
    other = stable.replace(f" {SUITE} ", f" {suite} ")
    (apt / f"sources.list.d/{suite}.list").write_text(f"{other}\n")
    (apt / f"preferences.d/{suite}").write_text(PIN.format(suite=suite))
    resolv_conf = root / "etc/resolv.conf"
    shutil.copyfile("/etc/resolv.conf", resolv_conf)
    chroot = ("chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq")
    logged(log, *chroot, "-o", f"{ANY_AGE}=false", "update")
    logged(log, *chroot, "install", "-y", "--no-install-recommends", *packages)
    logged(log, *chroot, "clean")
    resolv_conf.unlink()
    for entry in (root / "var/lib/apt/lists").iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def configure(root: Path, log: Path, steps: dict[str, object]) -> None:
    """Turn the bare installation into the image of this recipe."""
    if steps["newer_criu"]:
        say("taking CRIU from Debian unstable, as this kernel needs")
        install_from(root, log, UNSTABLE, NEWER_CRIU)
    logged(log, "chroot", root, "systemctl", "-q", "disable", *DISABLED_UNITS)
    logged(log, "chroot", root, "systemctl", "-q", "mask", *MASKED_UNITS)
    # Newer than /usr (systemd-update-done.service(8)): nothing is left to be done at a first boot.
    (root / "etc/.updated").touch()
    (root / "var/.updated").touch()


def bootstrap(
    target: Path,
    log: Path,
    packages: Sequence[str],
    excluded: Sequence[str],
    suite: str = SUITE,
) -> None:
    """Install packages into an empty directory, but for the paths that are excluded."""
    logged(
        log,
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
        f'--aptopt={ANY_AGE} "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded),
        "--include=" + ",".join(packages),
        *(suite, target),
    )
    # The exclusions were for the tree: what is installed into a copy of it comes whole.
    (target / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)


def build_cached(tree: Path, what: str, make: Callable[[Path, Path], None]) -> Path:
    """The tree, built by make(its root, a log) when there is none. Raises ImageError."""
    if tree.is_dir():
        return tree
    if os.geteuid():
        raise ImageError(f"building {what} needs root")
    tree.parent.mkdir(parents=True, exist_ok=True)
    with only_one(tree.parent / "build.lock"):
        if tree.is_dir():
            return tree
        # Whoever left these is gone: we hold the lock.
        for stale in tree.parent.glob("building-*"):
            logged(Path(os.devnull), "rm", "-rf", "--one-file-system", stale)
        require_packages("mmdebstrap", "debian-archive-keyring")
        say(f"building {what} ({SUITE}); a minute or two, once")
        work = Path(tempfile.mkdtemp(prefix="building-", dir=tree.parent))
        work.chmod(0o755)
        make(work / "root", work / "build.log")
        (work / "root").rename(tree)
        shutil.rmtree(work)
    return tree


def make_image(root: Path, log: Path) -> None:
    """Build the base image."""
    bootstrap(root, log, PACKAGES, EXCLUDED)
    configure(root, log, recipe())


def build_image() -> Path:
    """The cached base image, built first when there is none. Raises ImageError."""
    return build_cached(image_path(), "the base image", make_image)

"""A Debian with systemd, for containers whose first process it is: a tree, built once and cached.

Each machine sees it read-only: a test overlays it or copies it.
"""

import platform
from pathlib import Path

import image

# Where a machine has it.
PLACE = "/srv/debian"

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    # a login, and so a session with a scope and a user's own systemd
    "libpam-systemd",
    # something that is due while the container sleeps
    "cron",
    # to look at it from inside, and to compute in it
    "procps",
    "iproute2",
    "python3-minimal",
)


def recipe() -> dict[str, object]:
    """Everything the tree depends on."""
    return {
        "format": 1,
        "suite": image.SUITE,
        "packages": PACKAGES,
        "excluded": image.DOCUMENTATION,
        "architecture": platform.machine(),
    }


def make_guest(root: Path, log: Path) -> None:
    """Build the tree."""
    image.bootstrap(root, log, PACKAGES, image.DOCUMENTATION)
    # Each container has an identity of its own. Empty rather than missing (machine-id(5)): missing
    # makes a first boot.
    (root / "etc/machine-id").write_text("")
    for own in ("etc/hostname", "var/lib/dbus/machine-id"):
        (root / own).unlink(missing_ok=True)


def build_guest() -> Path:
    """The cached tree, built first when there is none. Raises image.ImageError."""
    return image.build_cached(image.cached_path("guest", recipe()), "the guest tree", make_guest)

"""Programs that people put to sleep, for the how-tos: a Debian tree, built once and cached."""

import platform
from pathlib import Path

import image

# Where a machine has it.
PLACE = "/srv/programs"

PACKAGES = ("redis-server", "redis-tools", "openjdk-21-jre-headless")


def recipe() -> dict[str, object]:
    """Everything the tree depends on."""
    return {
        "format": 1,
        "suite": image.STABLE,
        "packages": PACKAGES,
        "architecture": platform.machine(),
    }


def make_programs(root: Path, log: Path) -> None:
    """Build the tree. Java's packages need what others do without, and so nothing is left out."""
    image.bootstrap(root, log, PACKAGES, (), suite=image.STABLE)


def build_programs() -> Path:
    """The cached tree, built first when there is none. Raises image.ImageError."""
    path = image.cached_path("programs", recipe())
    return image.build_cached(path, "the programs of the how-tos", make_programs)

"""What CRIU's images depend on of the configuration that they were made with.

CRIU finds mounts by their destinations, and makes namespaces and ids as they were; programs, limits
and rights are in the images, and paths of the host are asked for anew.
"""

from collections.abc import Callable
from typing import Any

from torpor.errors import ArchiveError
from torpor.oci_config import Config


def require(saved: Config, here: Config, where: str) -> None:
    """Raise ArchiveError unless here is, for CRIU's images, the configuration that made them."""
    for what, look in _FITTING.items():
        try:
            then = look(saved)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArchiveError(f"{where}: its {what} are not readable") from error
        now = look(here)
        if then != now:
            only = sorted(set(map(str, then)) ^ set(map(str, now)))
            raise ArchiveError(
                f"{where}: its {what} are not what they would be here: "
                f"{', '.join(only)[:300] or 'their order'}",
                "its images fit only the configuration that they were made with; is the same "
                "version of torpor here, and what its definition names?",
            )


def _mounts(config: Config) -> list[tuple[str, str]]:
    return sorted(
        (str(one["destination"]), "bind" if "bind" in str(one.get("options")) else str(one["type"]))
        for one in config.get("mounts") or []
    )


def _namespaces(config: Config) -> list[tuple[str, bool]]:
    found = (config.get("linux") or {}).get("namespaces") or []
    return sorted((str(one["type"]), bool(one.get("path"))) for one in found)


def _ids(config: Config) -> list[tuple[str, int, int, int]]:
    linux = config.get("linux") or {}
    return [
        (key, int(one["containerID"]), int(one["hostID"]), int(one["size"]))
        for key in ("uidMappings", "gidMappings")
        for one in linux.get(key) or []
    ]


def _covered(config: Config) -> list[str]:
    linux = config.get("linux") or {}
    return sorted({*(linux.get("maskedPaths") or []), *(linux.get("readonlyPaths") or [])})


_FITTING: dict[str, Callable[[Config], list[Any]]] = {
    "mounts": _mounts,
    "namespaces": _namespaces,
    "mapped ids": _ids,
    "covered paths": _covered,
    "root": lambda config: [bool((config.get("root") or {}).get("readonly"))],
}

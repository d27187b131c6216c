"""What an OCI image says of the containers that are made from it.

Format: https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md
"""

import os
from dataclasses import dataclass
from typing import Any

from torpor.json_shape import ShapeError, a_text, an_object, clean, pairs, texts
from torpor.yaml_tree import shown

_VOLUMES_MAX = 128
# The beginnings of annotations by which runc, crun, CRIU and hooks are told what to do as root:
# org.criu.config names a file that can have CRIU run a script.
INSTRUCTIONS = ("org.criu.", "org.systemd.", "run.oci.", "io.torpor.")


@dataclass(frozen=True)
class ImageConfig:
    """What an image says of the containers made from it; empty is what it leaves open.

    digest is that of the manifest and identifies the image, which podman calls by config_digest,
    that of its configuration; command is Entrypoint and Cmd;
    cwd and volumes are absolute and normalised; user and stop_signal are not yet looked up;
    annotations are without those that instruct a runtime.
    """

    digest: str
    manifest_size_bytes: int
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    created: str = ""
    config_digest: str = ""


def read(
    digest: str, manifest_size_bytes: int, manifest: dict[str, Any], content: dict[str, Any]
) -> ImageConfig:
    """The record of a manifest and the configuration it names. Raises ShapeError."""
    if content.get("os") not in (None, "linux"):
        raise ShapeError("is not for Linux")
    config = an_object(content.get("config"), "config")
    return ImageConfig(
        digest=digest,
        manifest_size_bytes=manifest_size_bytes,
        command=(*texts(config, "Entrypoint"), *texts(config, "Cmd")),
        env=_env(config),
        cwd=_inside(a_text(config.get("WorkingDir"), "WorkingDir")),
        user=a_text(config.get("User"), "User"),
        volumes=_volumes(config),
        stop_signal=a_text(config.get("StopSignal"), "StopSignal"),
        labels=pairs(config.get("Labels"), "Labels"),
        annotations=_annotations(manifest),
        created=a_text(content.get("created"), "created"),
        config_digest=a_text(an_object(manifest.get("config"), "config").get("digest"), "digest"),
    )


def _annotations(manifest: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What describes the image; to instruct the host is not its author's to do."""
    said = pairs(manifest.get("annotations"), "annotations")
    return tuple(pair for pair in said if not pair[0].startswith(INSTRUCTIONS))


def _env(config: dict[str, Any]) -> tuple[str, ...]:
    env = texts(config, "Env")
    for entry in env:
        if not entry.partition("=")[0]:
            raise ShapeError(f"Env: '{shown(entry)}' is not NAME=VALUE")
    return tuple(entry if "=" in entry else f"{entry}=" for entry in env)


def _volumes(config: dict[str, Any]) -> tuple[str, ...]:
    paths = {
        _inside(clean(path, "Volumes")) for path in an_object(config.get("Volumes"), "Volumes")
    }
    if "/" in paths:
        raise ShapeError("Volumes: the root directory cannot be a volume")
    if len(paths) > _VOLUMES_MAX:
        raise ShapeError(f"Volumes: are more than {_VOLUMES_MAX}")
    return tuple(sorted(paths))


def _inside(path: str) -> str:
    """path as it is in the container, where nothing is above the root."""
    return "/" + os.path.normpath(f"/{path}").lstrip("/")

"""An OCI bundle that somebody else wrote: read, checked, never written to."""

import copy
import os

from torpor import regular_file, strict_json
from torpor.errors import DefinitionError
from torpor.oci_config import Config, ShapeError, items, objects, section

SIZE_LIMIT_BYTES = 16 << 20
HOOK_DIRECTORY = "/usr/libexec/torpor/"
_ID_END = 1 << 32  # uint32 in config-linux.md
_SPECIFICATION = "See config.md and config-linux.md of the OCI runtime specification."
_HINTS = {
    "ociVersion": "Is this an OCI runtime bundle?",
    "root.path": "It names the directory of the root file system.",
    "process.args": "It is the list of the program and its arguments.",
}


def load(path: str) -> Config:
    """The config.json in the bundle directory path.

    Raises DefinitionError, which names the file; also where ociVersion, root.path or process.args
    is missing.
    """
    file = os.path.join(path, "config.json")
    try:
        content, _ = regular_file.read(file, SIZE_LIMIT_BYTES)
    except OSError as error:
        raise DefinitionError(f"{file}: cannot read the bundle: {error.strerror}") from error
    try:
        config = strict_json.parse(content)
    except ValueError as error:
        raise DefinitionError(f"{file}: is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DefinitionError(f"{file}: is not a JSON object")
    if absent := missing(config):
        raise DefinitionError(f"{file}: has no {absent}", _HINTS[absent])
    try:
        require_shape(config)
    except ShapeError as error:
        raise DefinitionError(f"{file}: {error}", _SPECIFICATION) from error
    return config


def require_shape(config: Config) -> None:
    """Raise ShapeError where a part of config that torpor reads is not as config.md says."""
    for key in ("annotations", "hooks", "root"):
        _part(config, key)
    for mount in objects(config, "mounts"):
        _require_texts("mounts", mount, ("destination",), ("type", "source"))
        if not _are_texts(mount.get("options") or []):
            raise ShapeError("mounts: options is not a list of texts")
    _require_process(_part(config, "process"))
    _require_linux(_part(config, "linux"))


def _require_process(process: Config) -> None:
    user = _part(process, "user")
    _require_ids("process.user", user, (), ("uid", "gid"))
    if not all(map(_is_id, items(user, "additionalGids"))):
        raise ShapeError("process.user: additionalGids is not a list of ids")
    _part(process, "capabilities")
    for key in ("args", "env"):
        if not _are_texts(process.get(key) or []):
            raise ShapeError(f"process.{key} is not a list of texts")


def _require_linux(linux: Config) -> None:
    for entry in objects(linux, "namespaces"):
        _require_texts("linux.namespaces", entry, ("type",), ("path",))
    for key in ("uidMappings", "gidMappings"):
        for entry in objects(linux, key):
            _require_ids(f"linux.{key}", entry, ("containerID", "hostID"), ())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _part(parent: Config, key: str) -> Config:
    """The object parent[key], empty where there is none; parent stays as it is."""
    return section(dict(parent), key)


def _require_texts(
    where: str, entry: Config, needed: tuple[str, ...], possible: tuple[str, ...]
) -> None:
    for key in (*needed, *possible):
        value = entry.get(key)
        if not isinstance(value, str) and (value is not None or key in needed):
            raise ShapeError(f"{where}: {key} is not a text")


def _require_ids(
    where: str, entry: Config, needed: tuple[str, ...], possible: tuple[str, ...]
) -> None:
    for key in (*needed, *possible):
        value = entry.get(key)
        if not _is_id(value) and (value is not None or key in needed):
            raise ShapeError(f"{where}: {key} is not an id")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _ID_END  # a bool is an int to Python


def missing(config: Config) -> str:
    """The first part without which config cannot be one, empty if all are there."""
    root, process = config.get("root"), config.get("process")
    root_path = root.get("path") if isinstance(root, dict) else None
    args = process.get("args") if isinstance(process, dict) else None
    is_command = isinstance(args, list) and all(isinstance(arg, str) for arg in args)
    if not isinstance(config.get("ociVersion"), str):
        return "ociVersion"
    if not isinstance(root_path, str) or not root_path:
        return "root.path"
    return "" if args and is_command else "process.args"


def resolve_root(bundle: str, config: Config) -> str:
    """root.path as an absolute path without links: a relative one begins at the bundle."""
    path = config["root"]["path"]
    try:
        return os.path.realpath(os.path.join(bundle, path), strict=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DefinitionError(f"{bundle}/config.json: root.path {path!a}: {reason}") from error


def without_own_hooks(config: Config) -> Config:
    """A copy without torpor's hooks, which record what others do.

    The container's own unit does that itself. Raises ShapeError.
    """
    copied = copy.deepcopy(config)
    if not copied.get("hooks"):
        return copied
    hooks = section(copied, "hooks")
    for stage in list(hooks):
        entries = items(hooks, stage)
        others = [entry for entry in entries if not _is_own_hook(entry)]
        if others == entries:
            continue
        hooks[stage] = others
        if not others:
            del hooks[stage]
    if not hooks:
        del copied["hooks"]
    return copied


def _is_own_hook(entry: object) -> bool:
    path = entry.get("path") if isinstance(entry, dict) else None
    return isinstance(path, str) and os.path.normpath(path).startswith(HOOK_DIRECTORY)

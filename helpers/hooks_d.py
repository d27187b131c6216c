"""Hooks that other packages bring for every container: the directories of oci-hooks(5).

What they mean is what podman makes of them
(https://github.com/containers/common/tree/main/pkg/hooks): order, precedence, conditions.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torpor import go_regexp, oci_hook, regular_file, trust
from torpor.errors import DefinitionError
from torpor.oci_config import Config
from torpor.oci_hook import PRECREATE, Hook, HookError, When
from torpor.yaml_tree import shown

DIRECTORIES = ("/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d")
SIZE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class _Subject:
    """What conditions are about."""

    annotations: dict[str, str]
    command: str
    has_bind_mounts: bool


def read(directories: Sequence[str] = DIRECTORIES) -> list[Hook]:
    """The hooks of the *.json files in directories, by file name in lower case.

    A file replaces the one of the same name in an earlier directory; a directory may be missing.
    Raises HookError for the first file that is wrong, or whose author is not trusted.
    """
    files = {name: directory for directory in directories for name in _names(directory)}
    return [_read(files[name], name) for name in sorted(files, key=_rank)]


def matching(config: Config, hooks: Sequence[Hook], *, has_bind_mounts: bool) -> list[Hook]:
    """Those of hooks whose conditions config meets; never torpor's own.

    has_bind_mounts says whether bind mounts were asked for, not only brought by default.
    Raises HookError where a condition cannot be decided.
    """
    annotations = config.get("annotations")
    texts = annotations.items() if isinstance(annotations, dict) else ()
    subject = _Subject(
        # runc refuses a configuration with any that is not a text.
        {key: value for key, value in texts if isinstance(value, str)},
        config["process"]["args"][0],
        has_bind_mounts,
    )
    return [hook for hook in hooks if not hook.is_ours and _meets(subject, hook)]


def inject(config: Config, hooks: Sequence[Hook], where: str = "config.json") -> Config:
    """config with hooks behind those that it has, but for the stage precreate.

    A prestart hook becomes a createRuntime hook, as in podman: runc runs both at the same moment.
    Raises DefinitionError, which names where, if config's own hooks are malformed.
    """
    before = config.get("hooks") or {}
    if not isinstance(before, dict):
        raise DefinitionError(f"{where}: hooks is not an object")
    stages = dict(before)
    for hook in hooks:
        for said in hook.stages:
            if said == PRECREATE:
                continue
            stage = "createRuntime" if said == "prestart" else said
            present = stages.get(stage) or []
            if not isinstance(present, list):
                raise DefinitionError(f"{where}: hooks.{stage} is not a list")
            stages[stage] = [*present, hook.entry()]
    return {**config, "hooks": stages} if stages else dict(config)


def stamp_paths(directories: Sequence[str] = DIRECTORIES) -> list[str]:
    """What must be as it was, or missing as it was, for read() to return what it did.

    The directories, their hook files and what those that are links lead to. Programs are not
    among them. Raises nothing: what cannot be read is for read() to refuse.
    """
    paths: list[str] = []
    for directory in directories:
        files = [f"{directory}/{name}" for name in sorted(_json_names(directory))]
        targets = [os.path.realpath(file) for file in files if os.path.islink(file)]
        paths += [directory, *files, *targets]
    return list(dict.fromkeys(path for path in paths if path.isprintable()))


def _meets(subject: _Subject, hook: Hook) -> bool:
    """Whether all conditions hold; without one, none does."""
    held = False
    try:
        with go_regexp.limited():
            for held in _conditions(hook.when, subject):
                if not held:
                    break
    except go_regexp.LimitError as error:
        raise HookError(
            f"{hook.file}: key 'when': {error}",
            "Make its patterns simpler, or what they are matched with shorter: "
            "the container's annotations, its program.",
        ) from None
    return held


def _conditions(when: When, subject: _Subject) -> Iterator[bool]:
    if when.always is not None:
        yield when.always
    if when.has_bind_mounts is not None:
        yield when.has_bind_mounts and subject.has_bind_mounts
    for key, value in when.annotations:
        yield any(
            go_regexp.matches(key, name) and go_regexp.matches(value, text)
            for name, text in subject.annotations.items()
        )
    if when.commands:
        yield any(go_regexp.matches(command, subject.command) for command in when.commands)


def _rank(name: str) -> tuple[str, str]:
    return name.lower(), name


def _names(directory: str) -> list[str]:
    try:
        trust.require(directory, os.stat(directory), HookError)
        return _json_names(directory, strict=True)
    except FileNotFoundError:
        if not os.path.islink(directory):
            return []
        raise HookError(f"{directory}: is a link that leads nowhere", "Remove it.") from None
    except OSError as error:
        raise HookError(f"{directory}: cannot read the hooks: {error.strerror}") from error


def _json_names(directory: str, *, strict: bool = False) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.endswith(".json")]
    except OSError:
        if strict:
            raise
        return []


def _read(directory: str, name: str) -> Hook:
    file = f"{directory}/{name}"
    if not name.isprintable():
        raise HookError(f"{directory}: holds a file '{shown(name)}'", "Give it a name of text.")
    try:
        content, status = regular_file.read(file, SIZE_LIMIT_BYTES)
    except OSError as error:
        raise HookError(*_unreadable(file, error)) from error
    trust.require(file, status, HookError)
    hook = oci_hook.parse(file, content)
    _require_program(hook)
    return hook


def _unreadable(file: str, error: OSError) -> tuple[str, str]:
    problem = f"{file}: cannot read the hook: {error.strerror}"
    if not os.path.islink(file):
        return problem, ""
    target = shown(os.fsencode(os.readlink(file)).decode("utf-8", "replace"))
    return f"{problem}: it is a link to '{target}'", "Mend the link, or remove it."


def _require_program(hook: Hook) -> None:
    if set(hook.stages) == {"startContainer"}:
        return  # config.md: that path is one of the container's
    where = f"{hook.file}: key 'hook.path': {shown(hook.path)}"
    hint = f"Install the program, or remove {hook.file}."
    try:
        mode = os.stat(hook.path).st_mode
    except OSError as error:
        raise HookError(f"{where}: {error.strerror}", hint) from error
    if not stat.S_ISREG(mode) or not mode & 0o111:
        raise HookError(f"{where}: is not a program that can be executed", hint)

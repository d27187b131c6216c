"""runc, as torpor calls it (runc(8)). The container's name is its id.

It makes mount points in root file systems and runs hooks: with a mask for what others see, but for
a checkpoint.
"""

import os

from torpor import criu, inquiry, mounts, process, record, umask
from torpor.container import Container
from torpor.errors import ForeignContainerError, RuntimeFailedError
from torpor.process import Child, read_small
from torpor.within import Within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Keeps the checkpoint usable whatever the payload does with files: flock(2) and deleted files.
_CHECKPOINT_OPTIONS = ["--file-locks"]
# What runc says to CRIU outweighs CRIU's configuration.
_KEEP_CONNECTIONS = ["--tcp-established"]
# Of criu.conf too, and so what a runc that knows them says unless it is told.
_OPTIONS_OF_NEWER = ("--tcp-skip-in-flight", "--link-remap")
# What the host mounts and unmounts meanwhile is seen within, but nothing the other way round.
_OWN_MOUNTS = ["unshare", "--mount", "--propagation", "slave", "--"]
_HOOK_WORDS_MAX = 1000  # they hold all that the hook printed


def _argv(container: Container, *words: str) -> list[str]:
    return ["runc", "--log", log_path(container), "--log-format", "json", *words]


def _manager(systemd_cgroup: bool) -> list[str]:
    """Who makes the cgroup: systemd, or runc itself."""
    return ["--systemd-cgroup"] if systemd_cgroup else []


def log_path(container: Container) -> str:
    return f"{container.run_dir}/runc.log"


def _begin_log(container: Container) -> None:
    """What an earlier call said must not be taken for the end of the next."""
    if os.path.lexists(log_path(container)):
        os.unlink(log_path(container))


def create(container: Container, output: int, *, systemd_cgroup: bool = False) -> Child:
    """Make the container: its init waits in its namespaces for ``start``."""
    argv = _argv(
        container, *_manager(systemd_cgroup),
        "create", "--bundle", container.bundle, "--pid-file", container.pid_path, container.name,
    )  # fmt: skip
    return process.spawn(argv, stdout=output, stderr=output, umask=umask.PUBLIC)


def has_poststart_hooks(container: Container) -> bool:
    """Whether ``start`` has more to do than to let init execute its program (see exec_fifo)."""
    return b'"poststart"' in (record.read_bytes(f"{container.bundle}/config.json") or b"")


def start(container: Container) -> Child:
    """Let the created container's init execute its program, and run the hooks for that."""
    return process.spawn(_argv(container, "start", container.name), umask=umask.PUBLIC)


def checkpoint(
    container: Container,
    images: str,
    work: str,
    env: dict[str, str],
    *,
    leave_running: bool,
    keeps_connections: bool = False,
    within: str = "",
    parent: str = "",
    only_memory: bool = False,
) -> Child:
    """Dump the container to images; ``within`` is where the network namespace for CRIU is.

    parent is the path, from images, of those that this begins with. only_memory: those of a round
    before the dump itself (pre-dump).
    """
    _begin_log(container)
    argv = _argv(
        container, "checkpoint", "--image-path", images, "--work-path", work,
        *_CHECKPOINT_OPTIONS, *_options_of_newer(), *(["--leave-running"] if leave_running else []),
        *(["--pre-dump"] if only_memory else []), *(["--parent-path", parent] if parent else []),
        *(_KEEP_CONNECTIONS if keeps_connections else []), container.name,
    )  # fmt: skip
    if not within:
        return _spawn_quietly(argv, env, umask.PRIVATE)
    with Within(within):
        return _spawn_quietly(argv, env, umask.PRIVATE)


def _options_of_newer() -> list[str]:
    return inquiry.once("runc", "options", _ask_options).split()


def _ask_options(path: str) -> str:
    """Which of those it knows."""
    _, text = process.output([path, "checkpoint", "--help"], timeout_s=5.0)
    return " ".join(option for option in _OPTIONS_OF_NEWER if option in text)


def restore(
    container: Container,
    images: str,
    work: str,
    env: dict[str, str],
    output: int,
    *,
    systemd_cgroup: bool = False,
    keeps_connections: bool = False,
) -> Child:
    """Restore the container from images; its init is then in ``pid_path``.

    For this time runc binds its root file system at /run/runc/NAME/criu-root, and a ``runc
    delete`` by anybody would remove the files in it. It also mounts in the root file system
    itself, which others may have too, and unmounts what lies on top. So nobody else sees that.
    """
    _begin_log(container)
    argv = _OWN_MOUNTS + _argv(
        container, *_manager(systemd_cgroup),
        "restore", "--detach", "--image-path", images, "--work-path", work,
        "--bundle", container.bundle, "--pid-file", container.pid_path,
        *_CHECKPOINT_OPTIONS, *(_KEEP_CONNECTIONS if keeps_connections else []), container.name,
    )  # fmt: skip
    return process.spawn(argv, stdout=output, stderr=output, env=env, umask=umask.PUBLIC)


def _spawn_quietly(argv: list[str], env: dict[str, str], mask: int) -> Child:
    """runc repeats its log on standard error; we say it in our own words, or not at all."""
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return process.spawn(argv, stdout=sink, stderr=sink, env=env, umask=mask)
    finally:
        os.close(sink)


def delete(container: Container, timeout_s: float = 30.0) -> None:
    """Remove what runc holds of a container whose processes are dead; repeatable."""
    detach_restore_root(container)
    if not os.path.exists(container.runc_dir):
        return
    argv = _argv(container, "delete", "--force", container.name)
    child = _spawn_quietly(argv, {}, umask.PUBLIC)
    if child.wait(timeout_s) is None:
        child.kill()
    if os.path.exists(f"{container.runc_dir}/state.json"):
        raise RuntimeFailedError(
            f"runc delete {container.name} failed: {last_error(container)}",
            f"see: runc state {container.name}",
        )
    # A restore killed early leaves a directory without state.json, which runc does not know.
    remove_empty_tree(container.runc_dir)


def remove_empty_tree(path: str) -> None:
    """Remove a tree of directories, FIFOs and sockets; anything else in it stays."""
    if os.path.islink(path) or not os.path.isdir(path) or os.path.ismount(path):
        return
    for entry in os.listdir(path):
        inner = f"{path}/{entry}"
        if os.path.isdir(inner) and not os.path.islink(inner):
            remove_empty_tree(inner)
        elif entry == "exec.fifo" or entry == "notify.sock":
            os.unlink(inner)
    try:
        os.rmdir(path)
    except OSError:
        pass


def detach_restore_root(container: Container) -> None:
    """Unmount what a killed ``runc restore`` left at criu-root.

    It is the container's rootfs: the next ``runc delete`` or checkpoint would remove the
    rootfs's files through it.
    """
    mounted = f"{container.runc_dir}/criu-root"
    if not os.path.lexists(mounted):
        return
    if not mounts.detach(mounted):
        raise RuntimeFailedError(
            f"{mounted} cannot be unmounted",
            "unmount it before anything else: 'runc delete' would delete the rootfs through it",
        )
    os.rmdir(mounted)


def check_ours(container: Container) -> None:
    """Raise ForeignContainerError when runc has one of this name that torpor did not make."""
    bundle = bundle_of(f"{container.runc_dir}/state.json")
    if bundle not in ("", container.bundle):
        raise ForeignContainerError(
            f"runc already has a container {container.name!r}, of bundle {bundle}",
            f"it is not torpor's: remove it with 'runc delete {container.name}', "
            "or choose another name for this one",
        )


def bundle_of(path: str) -> str:
    """The bundle that a state.json of runc names; empty where there is no such file."""
    state = _read_json(path)
    if state is None:
        return ""
    config = state.get("config")
    labels = config.get("labels") if isinstance(config, dict) else None
    texts = map(str, labels if isinstance(labels, list) else ())
    found = (text[7:] for text in texts if text.startswith("bundle="))
    return next(found, "") or "unknown"


def _read_json(path: str) -> "dict[str, Any] | None":
    """A JSON object from a file; None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            import json

            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def init_pid(container: Container) -> int:
    """The container's PID 1 as its last create or restore wrote it; 0 when unknown."""
    text = read_small(container.pid_path).strip()
    return int(text) if record.is_number(text) else 0


def last_error(container: Container) -> str:
    """The last error that runc logged, in its own words."""
    import json

    message = ""
    for line in read_small(log_path(container)).splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            message = str(entry.get("msg", ""))
    return message or "it gave no reason"


def failed_hook(container: Container) -> str:
    """What runc said of an OCI hook that failed, as one line; empty where none did.

    runc 1.1 says "error running hook #0: ", later ones name the stage before "hook".
    """
    said = " ".join(last_error(container).split())
    is_hook = "error running " in said and "hook #" in said
    return said[:_HOOK_WORDS_MAX] if is_hook else ""


def criu_answered(container: Container, status: int | None) -> bool:
    """Whether CRIU itself told runc, which ended with this status, that it failed.

    It does so at its end, when what a dump had taken over is back, and was not killed then
    (criuSwrk() in runc's libcontainer/criu_linux.go, cr_service_work() in criu/cr-service.c).
    """
    return bool(status and status > 0) and "criu failed: type " in last_error(container)


def explain(container: Container, work: str, verb: str) -> tuple[str, list[str]]:
    """Why a dump or restore failed, in CRIU's words or else runc's, and lines of advice.

    The log, bounded, is kept where the advice says.
    """
    from torpor import remedies  # for those that fail alone

    errors = criu.errors(work, verb)
    reason = "CRIU: " + "; ".join(errors) if errors else last_error(container)
    kept = container.log_path(verb)
    try:
        criu.keep_log(work, verb, kept)
        log = f"log: {kept}" if os.path.exists(kept) else ""
    except OSError as error:  # the same disk, perhaps, for which the dump failed
        log = f"its log is lost: {error}"
    return reason, [line for line in (remedies.of(errors), log) if line]

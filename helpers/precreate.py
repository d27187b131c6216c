"""Hooks of the stage precreate: programs that read a configuration and print it changed.

As podman runs them: their environment is what the hook file says, and nothing else
(https://github.com/containers/common/tree/main/pkg/hooks/exec).
"""

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from torpor import bundle, oci_config, process, strict_json
from torpor.oci_config import Config
from torpor.oci_hook import PRECREATE, Hook, HookError
from torpor.umask import PUBLIC, Umask
from torpor.yaml_tree import shown

TIMEOUT_S = 10
OUTPUT_LIMIT_BYTES = bundle.SIZE_LIMIT_BYTES

_LAST_WORDS_BYTES = 4096
_CHUNK_BYTES = 64 << 10
_POLL_MAX_S = 3600.0  # poll(2) takes an int of milliseconds


def filtered(config: Config, hooks: Sequence[Hook]) -> Config:
    """config as those of hooks that are of the stage precreate leave it, one after the other.

    Each has its own timeout, or TIMEOUT_S. config is left as it is.
    Raises HookError, with the hook's last words, where one fails or prints no configuration.
    """
    for hook in hooks:
        for _ in range(hook.stages.count(PRECREATE)):
            config = _asked(hook, config)
    return config


@dataclass
class _Talk:
    """What a hook wrote so far: all of its output, the end of what it complained."""

    output: bytearray
    complaints: bytearray


def _asked(hook: Hook, config: Config) -> Config:
    talk = _Talk(bytearray(), bytearray())
    try:
        status = _run(hook, oci_config.dumps(config), talk)
    except OSError as error:
        raise _error(hook, f"cannot be run: {error.strerror}", talk) from error
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise _error(hook, f"failed with {how}", talk)
    try:
        answer = strict_json.parse(bytes(talk.output))
    except ValueError as error:
        what = f"is not JSON: {error}" if talk.output.strip() else "is empty"
        raise _error(hook, f"its output {what}", talk) from error
    if not isinstance(answer, dict):
        raise _error(hook, "its output is not a JSON object", talk)
    if absent := bundle.missing(answer):
        raise _error(hook, f"its output has no {absent}", talk)
    return answer


def _error(hook: Hook, problem: str, talk: _Talk) -> HookError:
    lines = talk.complaints.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = f": {_shown_line(last)}" if last else ""
    return HookError(
        f"{hook.file}: precreate hook {shown(hook.path)}: {problem}{said}",
        f"Try the program by hand, or remove {hook.file}.",
    )


def _shown_line(line: str) -> str:
    return "".join(char if char.isprintable() else " " for char in line[-300:])


def _run(hook: Hook, content: bytes, talk: _Talk) -> int:
    """Run hook with content as its standard input; its exit status, negative for a signal.

    Raises OSError where it cannot be started, HookError where it was killed for too much.
    """
    deadline = time.monotonic() + (hook.timeout_s or TIMEOUT_S)
    with ExitStack() as ours:
        with ExitStack() as theirs:
            stdin = _open_memory(content)
            theirs.callback(os.close, stdin)
            output, output_writer = _open_pipe(ours, theirs)
            complaints, complaints_writer = _open_pipe(ours, theirs)
            child = _spawn(hook, (stdin, output_writer, complaints_writer))
        buffers = {output: talk.output, complaints: talk.complaints}
        try:
            _read(hook, buffers, talk, deadline)
            if child.wait(deadline - time.monotonic()) is None:
                raise _error(hook, _overrun(hook), talk)
        finally:
            _end(child)
    return child.status or 0


def _open_memory(content: bytes) -> int:
    """A file of content at its beginning: it need not be fed, as a pipe must be."""
    fd = os.memfd_create("config.json")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _open_pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    ours.callback(os.close, reader)
    theirs.callback(os.close, writer)
    return reader, writer


def _spawn(hook: Hook, standard: tuple[int, int, int]) -> process.Child:
    """Start hook as the leader of a process group of its own."""
    argv = list(hook.args) or [hook.path]
    argv[0] = argv[0] or hook.path  # posix_spawn of Python takes no empty one
    with Umask(PUBLIC):
        pid = os.posix_spawn(
            hook.path,
            argv,
            dict(entry.split("=", 1) for entry in hook.env),
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(standard)],
            setpgroup=0,
            setsigdef=[signal.SIGPIPE],  # which Python ignores
        )
    return process.Child(pid)


def _read(hook: Hook, buffers: dict[int, bytearray], talk: _Talk, deadline: float) -> None:
    """Fill buffers, by the pipe's descriptor, to the end of all. Raises HookError for too much."""
    poller = select.poll()
    for fd in buffers:
        poller.register(fd, select.POLLIN)
    open_pipes = len(buffers)
    while open_pipes:
        if (left_s := deadline - time.monotonic()) <= 0:
            raise _error(hook, _overrun(hook), talk)
        for fd, _ in poller.poll(min(left_s, _POLL_MAX_S) * 1000):
            if not (chunk := os.read(fd, _CHUNK_BYTES)):
                poller.unregister(fd)
                open_pipes -= 1
            buffers[fd] += chunk
        if len(talk.output) > OUTPUT_LIMIT_BYTES:
            raise _error(hook, f"printed more than {OUTPUT_LIMIT_BYTES} bytes", talk)
        del talk.complaints[:-_LAST_WORDS_BYTES]


def _overrun(hook: Hook) -> str:
    return f"took longer than {hook.timeout_s or TIMEOUT_S} s"


def _end(child: process.Child) -> None:
    """Kill child and its group if it has not ended: until it is reaped, its id is its own."""
    if child.status is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()

"""Running commands in a booted machine, and reading and writing its files."""

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from keeper import ENVIRONMENT

# sh scripts, so that symbolic links are resolved in the machine and not on the host
WRITE = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
READ = 'cat <"$1"'


# What systemd says of the units of Inside.run, commands included
_WAY_IN = re.compile(r"systemd\[1\]: (Started )?test-[0-9]+\.service")
_LINES_SHOWN = 150
_LINE_LENGTH = 250
_END_TIMEOUT_S = 30.0


def excerpt(journal: str) -> str:
    """The end of a journal without what running the tests' own commands adds to it."""
    lines = [line for line in journal.splitlines() if not _WAY_IN.search(line)]
    return "\n".join(line[:_LINE_LENGTH] for line in lines[-_LINES_SHOWN:])


def hanging() -> str:
    """All tasks of the host that wait in the kernel and cannot be interrupted, and where."""
    found = []
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        try:
            # Not stat(5), which hangs itself for a task that hangs in execve(2).
            status = (task / "status").read_text()
        except OSError:
            continue  # it has ended
        if "\nState:\tD" in status:
            name = status.partition("\n")[0].partition("\t")[2]
            found.append(f"{task.name} ({name})\n{_stack(task)}")
    return "\n".join(found)


def _stack(task: Path) -> str:
    words = ("timeout", "--signal=KILL", "2", "cat", task / "stack")
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


class HungError(Exception):
    """A machine that does not answer any more: what it was asked, and what hangs in the kernel."""


class CommandFailed(subprocess.CalledProcessError):
    """A command in the machine failed; says all there is to say about it."""

    def __str__(self) -> str:
        command = " ".join(map(str, self.cmd))
        return f"{command}: status {self.returncode}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Inside:
    """What can be done in a machine, given where it is."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.hung = ""  # what it did not answer any more

    @property
    def leader(self) -> int:
        """Process id on the host of the machine's PID 1, or 0 while it is down."""
        raise NotImplementedError

    @property
    def root(self) -> Path:
        """Its root directory on the host."""
        raise NotImplementedError

    def _entered(self, *argv: str, timeout: float = 10) -> str:
        """Output of a command in the machine's namespaces but in no unit of it: for systemctl."""
        enter = ["nsenter", "--target", str(self.leader), "--all", *argv]
        done = subprocess.run(
            enter,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.stdout.strip()

    def signal(self, pid: int, name: str) -> None:
        """Send a signal to a process of the machine, without its systemd, which may hang."""
        self._entered("kill", "-s", name, str(pid))

    def command(self, *argv: str, env: Mapping[str, str] | None = None, unit: str) -> list[str]:
        """The host's command line that runs argv in the machine, as a transient unit of it.

        A process that nsenter alone puts there stays in the host's cgroup, which CRIU cannot
        restore ("couldn't set cgns prefix"), and an entered one left alive blocks the poweroff.
        """
        variables = {"HOME": "/root", "LANG": "C.UTF-8", **(env or {})}
        return [
            *("nsenter", "--target", str(self.leader), "--all"),
            *("systemd-run", "--quiet", "--wait", "--collect", f"--unit={unit}"),
            # the shell expands variables, not systemd
            *("--pipe", "--expand-environment=no", "--property=IgnoreSIGPIPE=no"),
            *(f"--setenv={name}={value}" for name, value in variables.items()),
            *("--", *argv),
        ]

    def popen(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        unit: str = "",
    ) -> subprocess.Popen[str]:
        """Start a command with text pipes for all three streams.

        Killing the returned process ends the connection, not the command: give it a unit name
        to `systemctl stop`. A command killed by a signal counts as status 255.
        """
        unit = unit or f"test-{next(self._numbers)}"
        return subprocess.Popen(
            self.command(*argv, env=env, unit=unit),
            env=ENVIRONMENT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # nsenter forks for the process namespace: a group, to end both
            start_new_session=True,
        )

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises CommandFailed, subprocess.TimeoutExpired, HungError."""
        if self.hung:
            raise HungError(self.hung)
        unit = f"test-{next(self._numbers)}"
        # An empty pipe, not the host's /dev/null: runtimes change the owner of standard streams.
        process = self.popen(*argv, env=env, unit=unit)
        try:
            stdout, stderr = process.communicate(input or "", timeout)
        except BaseException:
            self._end(process, unit, " ".join(argv))
            raise
        if check and process.returncode:
            raise CommandFailed(process.returncode, argv, stdout, stderr)
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def _end(self, process: subprocess.Popen[str], unit: str, command: str) -> None:
        """End a command; what cannot be ended, the machine is to blame for."""
        try:
            # The command first: it holds the pipes that communicate() reads to their end.
            self._entered("systemctl", "kill", "--signal=KILL", unit)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.hung = f"the machine does not answer since: {command[:_LINE_LENGTH]}\n{hanging()}"

    def shell(self, *argv: str) -> int:
        """An interactive shell, or a command, on our own terminal; returns its status."""
        command = self.command(*(argv or ("/bin/bash", "-l")), unit=f"test-{next(self._numbers)}")
        if os.isatty(0) and os.isatty(1):
            command[command.index("--pipe")] = "--pty"
        terminal = {"TERM": os.environ.get("TERM", "dumb")}
        return subprocess.run(command, env=ENVIRONMENT | terminal, check=False).returncode

    def _file(self, script: str, *argv: str, input: str = "") -> str:
        """Run a script about one file in the machine's mounts, or in its root while it is off."""
        leader = self.leader
        enter = ["nsenter", "--target", str(leader), "--mount", "--root"] if leader else []
        enter = enter or ["chroot", str(self.root)]
        done = subprocess.run(
            [*enter, "/bin/sh", "-c", script, "sh", *argv],
            env=ENVIRONMENT,
            input=input,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(done.returncode, argv, done.stdout, done.stderr)
        return done.stdout

    def write(self, path: str | Path, text: str, mode: int = 0o644) -> None:
        """Write a file of the machine, with the directories above it. Raises CommandFailed."""
        self._file(WRITE, str(path), f"{mode:o}", input=text)

    def read(self, path: str | Path) -> str:
        """Read a file of the machine. Raises CommandFailed."""
        return self._file(READ, str(path))

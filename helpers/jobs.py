"""Why systemd is stopping a unit, and what it thinks of the unit's end."""

import os
import time

from torpor import process

STOP = "stop"
RESTART = "restart"
SHUTDOWN = "shutdown"
NO_JOB = "end"  # nobody asked: a timeout or a failure ends the unit

_SHUTDOWN_TARGET = "shutdown.target"
_RESULT, _SUCCESS = "SERVICE_RESULT", "success"
_TRIES = 5
_PAUSE_S = 0.5
_ANSWER_TIMEOUT_S = 5.0


def main_pid() -> int:
    """The main process of the unit whose ExecStop= this is; 0 when it has ended by itself."""
    return int(os.environ.get("MAINPID") or 0)


def ask(name: str) -> "Question | None":
    """Ask why the unit of a container stops; None when nobody stops what has ended by itself."""
    return Question(name) if main_pid() else None


def unit_result() -> str:
    """How systemd saw the end, where it has called us for that (systemd.exec(5))."""
    result = os.environ.get(_RESULT, "unknown")
    status = os.environ.get("EXIT_STATUS", "")
    return f"unit result {result}{f', status {status}' if status else ''}"


def unit_failed() -> bool:
    """Whether systemd calls that end a failure."""
    return os.environ.get(_RESULT, _SUCCESS) != _SUCCESS


class Question:
    """Asks systemctl, which as root needs no system bus: that is gone late in a shutdown.

    The answer is awaited only when it is needed, so that other work goes on meanwhile.
    """

    def __init__(self, name: str) -> None:
        self._unit = f"torpor@{name}.service"
        self._ask()

    def _ask(self) -> None:
        self._reader, writer = os.pipe()
        argv = ["systemctl", "list-jobs", "--no-legend", "--plain", "--no-pager"]
        self._child = process.spawn([*argv, self._unit, _SHUTDOWN_TARGET], stdout=writer)
        os.close(writer)

    def answer(self) -> str:
        """STOP where systemd does not answer: of all mistakes, to sleep is the one that loses
        nothing."""
        for _ in range(_TRIES):
            status, text = process.collect(self._child, self._reader, _ANSWER_TIMEOUT_S)
            if status == 0:
                return cause(text, self._unit)
            time.sleep(_PAUSE_S)  # systemd is being re-executed
            self._ask()
        return STOP


def cause(listing: str, unit: str) -> str:
    """Why the unit stops, from the lines ``JOB UNIT TYPE STATE`` of systemctl list-jobs.

    A queued shutdown.target is what systemd itself takes for "stopping" (system state in
    systemctl(1)). A start job of the unit itself was queued behind the stop.
    """
    jobs = {}
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) >= 3:
            jobs[fields[1]] = fields[2]
    if jobs.get(_SHUTDOWN_TARGET) == "start":
        return SHUTDOWN
    kind = jobs.get(unit, "")
    if kind in ("restart", "try-restart", "reload-or-restart"):
        return RESTART
    return STOP if kind else NO_JOB

"""Let a container's program read its configuration again, as SIGHUP asks for it.

ExecReload= of torpor@.service. One that does not handle the signal is left alone: in a pid
namespace that is not its own it would be killed, and the unit would start it again
(RestartForceExitStatus=SIGHUP).
"""

import os
import signal
import sys

from torpor import process, runc
from torpor.container import Container
from torpor.errors import TorporError
from torpor.talk import report


def main() -> None:
    name = sys.argv[1]
    try:
        _reload(Container(name))
    except Exception as error:
        os._exit(report(name, error))
    os._exit(0)


def _reload(container: Container) -> None:
    pid = runc.init_pid(container)
    if not process.hears(pid, signal.SIGHUP):
        raise TorporError(
            "its program does not handle SIGHUP: it goes on as it was",
            f"To start it anew:  systemctl restart torpor@{container.name}",
        )
    os.kill(pid, signal.SIGHUP)

"""Configure the network of a container that starts, as its lease says.

The start helper runs it beside runc. It loads what it needs, waits for a line on standard input,
and says on standard output why it failed: a message, and then what to do.
"""

import os
import sys

from torpor import connecting, networking
from torpor import lease as leases
from torpor.container import Container
from torpor.errors import RestoreError, TorporError
from torpor.talk import plain, warn


def main() -> None:
    name, what, *options = sys.argv[1:]
    try:
        _configure(Container(name), what, options)
    except Exception as error:
        message = error.message if isinstance(error, TorporError) else f"network: {error}"
        print(plain(message), getattr(error, "hint", ""), sep="\n", flush=True)
        os._exit(networking.TAKEN if isinstance(error, RestoreError) else 1)
    os._exit(0)


def _configure(container: Container, what: str, options: list[str]) -> None:
    lease = leases.read(container)
    if lease is None:
        raise TorporError(f"{leases.path(container)} is gone", "start again")
    if what == networking.BUILD:
        saved = [word for word in options if word.startswith(networking.SAVED)]
        warnings = connecting.connect(
            container,
            lease,
            saved="".join(saved).removeprefix(networking.SAVED),
            hold=networking.HOLD in options,
            until_there=_await_go,
        )
        warn(container.name, warnings)
    connecting.open_ports(container, lease, again=what == networking.RULES)
    if networking.HOLD not in options:
        networking.note(container, lease)


def _await_go() -> None:
    """Until the namespace is there; whoever started this may give up before."""
    if not os.read(0, 16):
        os._exit(1)

"""After a container is gone: record that it ended.

poststop hook (config.md of the OCI runtime specification) for bundles that people run with runc
themselves. runc also calls it after a checkpoint, and when a failed start is cleaned up: only a
record that says RUNNING changes, and images are never touched. It always succeeds: the container
is gone whatever happens here, and runc would call its checkpoint or delete failed.
"""

import os

from torpor import oci_state, state
from torpor.container import Container, valid_name
from torpor.errors import BusyError, TorporError
from torpor.lock import Lock


def main() -> None:
    try:
        told = oci_state.read(0)
        if valid_name(told.id):
            _record_end(Container(told.id))
    except BusyError:
        pass  # a helper of torpor is at work, and records what it does
    except (TorporError, OSError) as error:
        _warn(f"the end of a container is not recorded: {error}")
    os._exit(0)


def _record_end(container: Container) -> None:
    with Lock(container, wait=False):
        before = state.read(container)
        if before.name == state.RUNNING:
            state.write(container, before.become(state.EXITED, "ended, run by hand"))


def _warn(text: str) -> None:
    from torpor.journal import warn  # seldom needed

    warn(text)

"""Clean up after a unit that did not stop in order: its start or stop was killed or failed.

ExecStopPost= of torpor@.service, which calls it only if there is something left. Everything here
is done again by the next start, should this be killed too.
"""

import os
import sys

from torpor import jobs, payload
from torpor.cgroup import own_unit
from torpor.container import Container
from torpor.errors import ForeignContainerError
from torpor.lock import Lock
from torpor.talk import report, warn


def main() -> None:
    name = sys.argv[1]
    try:
        container = Container(name)
        with Lock(container):
            _settle(container)
    except ForeignContainerError:
        pass  # the start has said so
    except Exception as error:
        os._exit(report(name, error))
    os._exit(0)


def _settle(container: Container) -> None:
    warn(container.name, payload.clear(container, payload.cgroup_of(container, own_unit())))
    failed = jobs.unit_failed()
    warn(container.name, payload.record_end(container, jobs.unit_result(), failed=failed))

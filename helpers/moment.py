"""One moment of a running container: memory and files, while it stands still between them."""

import time

from torpor import capture, checkpoint, commit, limits, networking, payload, runc
from torpor.capture import Place
from torpor.cgroup import Cgroup
from torpor.checkpoint import Dump
from torpor.container import Container
from torpor.errors import ContainerLostError
from torpor.patience import Patience, Stall
from torpor.preparation import Plan
from torpor.snapshots import Snapshot
from torpor.talk import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Moment:
    """What is kept of it, in the directory of a snapshot."""

    def __init__(
        self,
        container: Container,
        snapshot: Snapshot,
        cgroup: Cgroup,
        plan: Plan,
        places: list[Place],
        patience: Patience,
        look: "Callable[[], None]",
    ) -> None:
        """look is called every second while files are copied, and raises to give it up."""
        self._container = container
        self._snapshot = snapshot
        self._cgroup = cgroup
        self._plan = plan
        self._places = places
        self._patience = patience
        self._look = look
        self.frozen_s = 0.0

    def keep(self) -> None:
        """Dump and copy; the container runs on afterwards, whatever is raised.

        CheckpointError and others: nothing of it counts. ContainerLostError: the container is
        frozen still, and cannot go on.
        """
        container, cgroup = self._container, self._cgroup
        self._snapshot.make()
        payload.save_bundle(container, self._snapshot)
        capture.write(self._snapshot.places, self._places)
        networking.save(container, self._plan, self._snapshot, runc.init_pid(container))
        began_s = time.monotonic()
        lifted: list[tuple[str, str]] = []
        try:
            checkpoint.freeze(cgroup, self._plan, self._patience)
            lifted = limits.lift(cgroup)
            # Connections are not held back: when it comes back here, nobody waits for them.
            dump = Dump(container, self._snapshot, cgroup, lambda: None, self._patience)
            dump.run(self._complete, leave_running=True)
        except ContainerLostError:
            raise
        except BaseException:
            self._thaw(lifted)
            raise
        self._thaw(lifted)
        self.frozen_s = time.monotonic() - began_s

    def _thaw(self, lifted: list[tuple[str, str]]) -> None:
        warn(self._container.name, limits.put_back(self._cgroup, lifted))
        self._cgroup.thaw()

    def _complete(self) -> None:
        """While CRIU holds the container. With CRIU killed it stays frozen, and is then lost."""
        commit.complete(
            self._container,
            self._snapshot,
            self._cgroup,
            self._plan,
            self._look,
            Stall(self._patience),
        )
        for number, place in enumerate(self._places):
            target = f"{self._snapshot.files}/{number}"
            capture.copy(place, place.path, target, self._look, Stall(self._patience))

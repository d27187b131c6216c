"""A crash that is answered by going back to the newest snapshot, where the definition says so."""

import time

from torpor import events, notify, preparation, rollback, snapshots
from torpor.container import Container
from torpor.last_rendering import Inputs
from torpor.state import State
from torpor.talk import WARNING, say, warn


def answer(container: Container, inputs: Inputs, current: State) -> State:
    """What the start goes by: the snapshot, or current where there is none or it did not help.

    Raises TorporError, OSError where it cannot be gone back to.
    """
    found = snapshots.known(container)
    if not found:
        say(f"{container.name}: it crashed, and there is no snapshot to go back to", WARNING)
        return current
    newest, now_s = found[-1], time.time()
    if not snapshots.may_answer(snapshots.answers(container), newest.number, now_s):
        say(
            f"{container.name}: it crashed {snapshots.BURST} times within "
            f"{snapshots.INTERVAL_S / 60:.0f} min of going back to snapshot {newest.number}: "
            "not once more",
            WARNING,
        )
        return current
    snapshots.note_answer(container, newest.number, now_s)
    warn(container.name, preparation.undo(container))  # a rendering may have mounted its files
    why = f"it crashed ({current.reason}): back to snapshot {newest.number}"
    progress = notify.Progress(f"going back to snapshot {newest.number}")
    ready = rollback.go_back(container, newest, inputs, current, why, progress)
    events.tell(events.WENT_BACK, container, why, generation=newest.number)
    return ready

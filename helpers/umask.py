"""What others may do with a new file (umask(2)): not for whose process makes it to decide.

Helpers have the UMask= of their unit, commands that of whoever calls them, hooks a runtime's.
"""

import os

PRIVATE = 0o077
PUBLIC = 0o022  # for what a container or other programs of the host are to see


class Umask:
    """Within a with statement, the mask of this process with all its threads; None leaves it."""

    __slots__ = ("_before", "_mask")

    def __init__(self, mask: int | None) -> None:
        self._mask = mask

    def __enter__(self) -> None:
        self._before = None if self._mask is None else os.umask(self._mask)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            os.umask(self._before)

"""Units as systemd sees them, over D-Bus (org.freedesktop.systemd1(5))."""

from torpor.container import Container
from torpor.errors import TorporError


class Unit:
    """The unit of one container, as it is asked."""

    def __init__(self, container: Container) -> None:
        from pystemd.systemd1 import Unit as SystemdUnit

        self._unit = SystemdUnit(container.unit.encode())
        try:
            self._unit.load()
        except Exception as error:  # pystemd's own errors derive from Exception itself
            raise TorporError(
                f"systemd cannot be asked about {container.unit}: {error}",
                "is systemd PID 1, and is its bus there? try: systemctl status",
            ) from error

    @property
    def active_state(self) -> str:
        """active, inactive, failed, activating, deactivating ..."""
        return str(self._unit.Unit.ActiveState.decode())

    @property
    def cgroup(self) -> str:
        """The unit's cgroup, below the mount point; empty while it has none."""
        return str(self._unit.Service.ControlGroup.decode())

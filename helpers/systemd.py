"""Units as systemd sees them, over D-Bus (org.freedesktop.systemd1(5))."""

from torpor.container import Container
from torpor.errors import TorporError

TYPE_CHECKING = False  # typing is not imported
if TYPE_CHECKING:
    from collections.abc import Iterable


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
    def runs(self) -> bool:
        """Whether it was started, and nobody stops it."""
        return self.active_state in ("active", "reloading", "refreshing")

    @property
    def is_down(self) -> bool:
        return self.active_state in ("inactive", "failed")

    @property
    def main_pid(self) -> int:
        """0 while it has none."""
        return int(self._unit.Service.MainPID)

    @property
    def cgroup(self) -> str:
        """The unit's cgroup, below the mount point; empty while it has none."""
        return str(self._unit.Service.ControlGroup.decode())

    @property
    def slice(self) -> str:
        """The slice that its unit file names; where it runs, its cgroup says."""
        return str(self._unit.Service.Slice.decode())

    def properties(self, names: "Iterable[str]") -> dict[str, object]:
        """Properties of the service as pystemd has them, without those that this systemd lacks."""
        known = self._unit.Service.properties
        return {name: getattr(self._unit.Service, name) for name in names if name in known}


def reload() -> None:
    """Have systemd run its generators and read all units again, as systemctl daemon-reload does.

    Limits of running units change with it (unit_deserialize_state() in systemd's core).
    """
    from pystemd.systemd1 import Manager

    try:
        with Manager() as manager:
            manager.Manager.Reload()
    except Exception as error:  # pystemd's own errors derive from Exception itself
        raise TorporError(
            f"systemd did not read its units again: {error}", "try: systemctl daemon-reload"
        ) from error

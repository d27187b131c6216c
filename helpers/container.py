"""A container's name and the places that belong to it."""

import os

from torpor.errors import TorporError

# Overridable so that a test can look at one container's records on any machine.
STATE_ROOT = os.environ.get("TORPOR_STATE_ROOT", "/var/lib/torpor")
RUN_ROOT = os.environ.get("TORPOR_RUN_ROOT", "/run/torpor")
DEFINITION_ROOT = os.environ.get("TORPOR_DEFINITION_ROOT", "/etc/torpor")
RUNC_ROOT = "/run/runc"

NAME_MAX = 64
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_REST = _FIRST | frozenset("_.-")


def valid_name(name: str) -> bool:
    """Whether NAME may name a container: it becomes a runc id, a unit instance and a path."""
    return (
        0 < len(name) <= NAME_MAX and name[0] in _FIRST and all(char in _REST for char in name[1:])
    )


def check_name(name: str) -> None:
    """Raise TorporError for a name that is not one."""
    if not valid_name(name):
        raise TorporError(
            f"{name!r} is no container name",
            "use at most 64 letters, digits, '-', '_' or '.', a letter or digit first",
            exit_code=2,
        )


class Container:
    """The places of one container. Nothing here touches the disk."""

    __slots__ = ("name", "run_dir", "state_dir")

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name
        self.state_dir = f"{STATE_ROOT}/{name}"
        self.run_dir = f"{RUN_ROOT}/{name}"

    @property
    def unit(self) -> str:
        return f"torpor@{self.name}.service"

    @property
    def definition_path(self) -> str:
        return f"{DEFINITION_ROOT}/{self.name}.yaml"

    @property
    def lock_path(self) -> str:
        """Outside both directories: they come and go while somebody waits for the lock."""
        return f"{RUN_ROOT}/.locks/{self.name}"

    @property
    def state_path(self) -> str:
        return f"{self.state_dir}/state"

    @property
    def history_path(self) -> str:
        """What became of it, for people."""
        return f"{self.state_dir}/history"

    @property
    def inputs_path(self) -> str:
        return f"{self.state_dir}/inputs"

    @property
    def rendered_path(self) -> str:
        """The rendered OCI config, kept beside the record of what it was made from."""
        return f"{self.state_dir}/config.json"

    @property
    def planned_path(self) -> str:
        """What the host must have for the rendered OCI config, see preparation."""
        return f"{self.state_dir}/plan"

    @property
    def created_path(self) -> str:
        """When the container was first rendered."""
        return f"{self.state_dir}/created"

    @property
    def plan_path(self) -> str:
        """The plan that the container of this moment was prepared with."""
        return f"{self.run_dir}/plan"

    @property
    def bundle(self) -> str:
        """The bundle that runc runs. It exists only while the container does."""
        return f"{self.run_dir}/bundle"

    @property
    def pid_path(self) -> str:
        return f"{self.run_dir}/pid"

    @property
    def pump_path(self) -> str:
        return f"{self.run_dir}/pump"

    @property
    def fresh_path(self) -> str:
        """While it exists, the next stop does not sleep."""
        return f"{self.run_dir}/stop-fresh"

    @property
    def runc_dir(self) -> str:
        return f"{RUNC_ROOT}/{self.name}"

    def log_path(self, verb: str) -> str:
        """Where the last failed dump or restore left its log."""
        return f"{self.state_dir}/last-{verb}.log"

    @property
    def generations_dir(self) -> str:
        return f"{self.state_dir}/generations"

    def generation_dir(self, generation: int) -> str:
        return f"{self.generations_dir}/{generation}"

    @property
    def snapshots_dir(self) -> str:
        return f"{self.state_dir}/snapshots"

    def snapshot_dir(self, number: int) -> str:
        return f"{self.snapshots_dir}/{number}"

    @property
    def rollback_path(self) -> str:
        """What a rollback replaces: from before it begins until its memory is awake."""
        return f"{self.state_dir}/rollback"

    @property
    def rollbacks_path(self) -> str:
        """When crashes were answered by which snapshot."""
        return f"{self.state_dir}/rollbacks"

    @property
    def ahead_dir(self) -> str:
        """Memory that was copied while it ran on."""
        return f"{self.state_dir}/ahead"

    @property
    def ahead_path(self) -> str:
        """Whose memory that is, if the next dump is to begin with it."""
        return f"{self.run_dir}/ahead"

    @property
    def leaving_path(self) -> str:
        """To which host it leaves, and how the two call that."""
        return f"{self.state_dir}/leaving"

    @property
    def arrived_path(self) -> str:
        """How the host that it came from calls its move here."""
        return f"{self.state_dir}/arrived"

    def aside_dir(self, generation: int) -> str:
        """Where images go that must never be restored but may still be looked at."""
        return f"{self.state_dir}/aside/{generation}"

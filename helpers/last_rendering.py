"""The inputs of a container's last rendering: what it was made from, and what a start or a stop
needs to know of it without reading YAML or JSON.
"""

import os

import torpor
from torpor import process, record
from torpor.container import Container
from torpor.errors import RecordError
from torpor.rootfs import identity

_KIND, _DIRECTORY = 0o170000, 0o040000  # inode(7)


class Inputs:
    """What a start and a stop need to know of a definition, without reading YAML."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def text(self, key: str) -> str:
        return next((value for name, value in self.pairs if name == key), "")

    def texts(self, key: str) -> list[str]:
        return [value for name, value in self.pairs if name == key]

    @property
    def digest(self) -> str:
        """Identifies the definition and its bundle; a change of it invalidates images."""
        return self.text("digest")

    @property
    def rootfs(self) -> str:
        """The directory of the rootfs, or of the image below what the container wrote."""
        return self.text("rootfs")

    @property
    def image(self) -> str | None:
        """Identifies the image that the container writes over; None where it has a rootfs."""
        return next(iter(self.texts("image")), None)

    @property
    def checkpoint_on(self) -> frozenset[str]:
        return frozenset(self.text("checkpoint-on").split())

    @property
    def start_fresh(self) -> bool:
        """Whether a failed restore may be answered by a fresh start."""
        return self.text("restore-failure") != "fail"

    @property
    def keep(self) -> int:
        """How many generations stay on disk, the one asleep included."""
        return int(self.text("keep"))

    @property
    def keep_logs(self) -> bool:
        return self.text("keep-logs") == "yes"

    @property
    def goes_back(self) -> bool:
        """Whether a start after a crash goes back to the newest snapshot."""
        return self.text("on-crash") == "rollback"

    @property
    def snapshots_keep(self) -> int:
        """How many snapshots stay on disk."""
        return int(self.text("snapshots-keep") or 1)

    @property
    def snapshots_max_bytes(self) -> int:
        """How much disk all snapshots may take, but for the newest; 0 is no limit."""
        return int(self.text("snapshots-max-bytes") or 0)

    @property
    def tcp_keep(self) -> bool:
        """Whether its TCP connections are saved with its memory, rather than closed."""
        return self.text("tcp") == "keep"

    @property
    def stop_signal(self) -> int:
        return int(self.text("stop-signal"))

    @property
    def limits(self) -> list[tuple[str, str]]:
        """What limits holds for the container's own processes: directives and values."""
        return [(one[0], one[2]) for one in (text.partition("=") for text in self.texts("limit"))]

    @property
    def is_machine(self) -> bool:
        """Whether systemd-machined is to know it."""
        return self.text("register") == "yes"

    @property
    def machine_id(self) -> str:
        """The container's machine-id(5) where it is told one, else empty."""
        return self.text("machine-id")

    @property
    def owner(self) -> tuple[int, int]:
        """The host's uid and gid of the container's root."""
        uid, _, gid = self.text("owner").partition(":")
        return int(uid), int(gid)

    @property
    def obstacles(self) -> list[tuple[str, str]]:
        """What in the config would keep images of it from being restored, and what to do."""
        return [(said[0], said[2]) for said in map(_halves, self.texts("obstacle"))]

    @property
    def sync_paths(self) -> list[str]:
        """Directories whose files must be as durable as the memory that refers to them."""
        return self.texts("sync")


def _halves(text: str) -> tuple[str, str, str]:
    return text.partition("\t")


def load(container: Container) -> Inputs | None:
    """The last rendering's inputs, whether or not they still hold; None when there are none."""
    try:
        text = record.read_bytes(container.inputs_path)
        if text is None:
            return None
        found = Inputs(record.parse(text, "inputs", container.inputs_path))
        _require_numbers(found)
    except (RecordError, ValueError):
        return None
    return found


def _require_numbers(inputs: Inputs) -> None:
    """Raises ValueError where one is missing, or is none."""
    optional = (inputs.text(f"snapshots-{what}") or "0" for what in ("keep", "max-bytes"))
    for text in (
        *optional,
        inputs.text("keep"),
        inputs.text("stop-signal"),
        *inputs.text("owner").split(":"),
    ):
        record.number(text)
    _ = inputs.owner


def still_hold(container: Container, known: Inputs, unit_payload: str) -> bool:
    return (
        known.text("torpor") == torpor.__version__
        and known.text("unit") == unit_payload
        and known.text("host") == host()
        and known.texts("file") == [stamped(path) for path in _stamp_paths(container, known)]
        and all(_still_leads(pair) for pair in known.texts("resolved"))
        and all(_is_directory_or_missing(path) for path in known.texts("directory"))
        and os.path.isdir(known.rootfs)
        and os.path.exists(container.rendered_path)
        and os.path.exists(container.planned_path)
    )


def _still_leads(pair: str) -> bool:
    path, _, real = pair.partition("\t")
    try:
        return os.path.realpath(path, strict=True) == real
    except OSError:
        return False


def _is_directory_or_missing(path: str) -> bool:
    try:
        return os.lstat(path).st_mode & _KIND == _DIRECTORY
    except FileNotFoundError:
        return True
    except OSError:
        return False


def host() -> str:
    """What a rendering goes by besides files: the kernel, SELinux, and what root may do here."""
    status = process.read_small("/proc/self/status")
    bounding, filtered = (
        status.partition(f"\n{key}:")[2].partition("\n")[0].strip() for key in ("CapBnd", "Seccomp")
    )
    selinux = "selinux" if os.path.exists("/sys/fs/selinux/enforce") else "no-selinux"
    return f"{os.uname().release} {selinux} {bounding} {filtered}"


def _stamp_paths(container: Container, known: Inputs) -> list[str]:
    return [container.definition_path, *known.texts("also")]


def stamped(path: str) -> str:
    """Identifies a file's content without reading it; any write changes ctime."""
    try:
        stat = os.stat(path)
    except OSError:
        return f"- {path}"
    return (
        f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns} {path}"
    )


def rootfs_identity(container: Container, inputs: Inputs) -> str:
    """Identifies the files that the container runs on. Raises OSError where there are none."""
    if inputs.image is None:
        return identity(inputs.rootfs)
    from torpor import overlay

    return overlay.identity(container, inputs.rootfs, inputs.image)

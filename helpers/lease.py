"""What a container was given of a network: its lease, a durable record in its state directory.

It is written before anything is configured, so that whatever was can be removed, and kept while
the container sleeps. Who gives out addresses and ports holds one lock and looks at all leases:
there is no other table that could disagree with them, and a container whose state directory is
removed holds none.
"""

import os

from torpor import lock, record, state
from torpor.container import RUN_ROOT, STATE_ROOT, Container, valid_name
from torpor.errors import BusyError, RecordError, TorporError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BRIDGE = "bridge"
CNI = "cni"

_FORM = "lease"
_FILE = "network"
_LOCK = f"{RUN_ROOT}/.locks/.networks"
# Bundles that people run with runc themselves have leases of this boot only.
FOREIGN_ROOT = f"{RUN_ROOT}/.networks"
# Not in the containers' own state directories: one that was removed is to be undone too, and
# plugins keep leases of their own on disk.
_CNI_ROOT = f"{STATE_ROOT}/.cni"


class Publish:
    """A port of the host whose connections go to a port of the container."""

    __slots__ = ("address", "container_port", "host_port", "protocol")

    def __init__(self, address: str, host_port: int, container_port: int, protocol: str) -> None:
        self.address = address  # of the host, canonical; empty for all, of both families
        self.host_port = host_port
        self.container_port = container_port
        self.protocol = protocol  # tcp, udp or sctp

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        place = f"{host}:{self.host_port}" if host else str(self.host_port)
        return f"{place}:{self.container_port}/{self.protocol}"

    def words(self) -> tuple[str, str, str, str]:
        return self.address, str(self.host_port), str(self.container_port), self.protocol

    def collides(self, other: "Publish") -> bool:
        """Whether no two containers can have both."""
        same = (self.host_port, self.protocol) == (other.host_port, other.protocol)
        return same and (self.address == other.address or not self.address or not other.address)


def read_publish(words: list[str]) -> Publish:
    """The reverse of Publish.words(). Raises ValueError."""
    address, host_port, container_port, protocol = words
    return Publish(address, int(host_port), int(container_port), protocol)


class Lease:
    """A network that a container has. Addresses are "ADDRESS/LENGTH"; what is empty there is not.

    kind is bridge or cni, network the bridge's or the CNI network's name. bridge_address(6) is
    what torpor gives the bridge itself: with it go routing and masquerading; without it the bridge
    is somebody else's. device is the host's end of the veth pair, interface the container's.
    mapped: the network namespace belongs to the container's user namespace, and ends with it.
    """

    __slots__ = (
        *("address", "address6", "boot", "bridge_address", "bridge_address6", "device", "gateway"),
        *("gateway6", "interface", "kind", "mac", "mapped", "mtu", "network", "publish"),
    )

    def __init__(self, kind: str, network: str) -> None:
        self.kind = kind
        self.network = network
        self.interface = "eth0"
        self.boot = ""  # in which it was given
        self.device = ""
        self.mac = ""
        self.mtu = 0  # 0: the bridge's
        self.mapped = False
        self.address = self.gateway = self.bridge_address = ""
        self.address6 = self.gateway6 = self.bridge_address6 = ""
        self.publish: list[Publish] = []

    def serialize(self) -> bytes:
        pairs = [(key, getattr(self, key)) for key in _TEXTS]
        pairs += [("mtu", str(self.mtu)), ("mapped", "yes" if self.mapped else "no")]
        pairs += [("publish", "\t".join(one.words())) for one in self.publish]
        return record.serialize(_FORM, pairs)


_TEXTS = (
    *("kind", "network", "interface", "boot", "device", "mac", "address", "gateway"),
    *("bridge_address", "address6", "gateway6", "bridge_address6"),
)


def parse(text: bytes, where: str) -> Lease:
    """A lease from a record's bytes; RecordError for anything else."""
    pairs = record.parse(text, _FORM, where)
    said = dict(pairs)
    try:
        found = Lease("", "")
        for key in _TEXTS:
            setattr(found, key, said[key])
        found.mtu = int(said["mtu"])
        found.mapped = said["mapped"] == "yes"
        found.publish = [
            read_publish(value.split("\t")) for key, value in pairs if key == "publish"
        ]
    except (KeyError, ValueError) as error:
        raise RecordError(f"{where}: not a whole lease: {error}") from error
    return found


class Foreign(Container):
    """A container that others run, whose lease is of this boot only."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.state_dir = f"{FOREIGN_ROOT}/{name}"


def path(container: Container) -> str:
    return f"{container.state_dir}/{_FILE}"


def cni_path(container: Container) -> str:
    """The record of what CNI plugins did for the container: there as long as it is to be undone."""
    return f"{_CNI_ROOT}/{container.name}"


def cni_names() -> list[str]:
    """The containers for whom CNI plugins have something to undo."""
    try:
        return [name for name in os.listdir(_CNI_ROOT) if valid_name(name)]
    except FileNotFoundError:
        return []


def read(container: Container) -> Lease | None:
    """The container's lease, None where it has none. Raises RecordError."""
    text = record.read_bytes(path(container))
    return parse(text, path(container)) if text is not None else None


class Table:
    """All leases of this host, held still: nobody else gives or takes one meanwhile."""

    def __enter__(self) -> "Table":
        record.make_directory(_LOCK.rpartition("/")[0])
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(_LOCK, flags, 0o600)
        if not lock.acquire(self._fd, lock.WAIT_S):
            os.close(self._fd)
            raise BusyError(
                f"another has held the leases of all networks for {lock.WAIT_S:.0f} s",
                f"see: fuser -v {_LOCK}",
            )
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def others(self, name: str) -> "list[tuple[str, Lease]]":
        """Who else has a lease that counts, and which. Raises RecordError."""
        return [
            (owner, lease)
            for owner, place, is_foreign in _records()
            if owner != name
            and (lease := _load(place)) is not None
            and (is_foreign or _counts(owner, lease))
        ]

    def write(self, container: Container, lease: Lease) -> None:
        record.make_directory(container.state_dir)
        record.write_durably(path(container), lease.serialize())

    def remove(self, container: Container) -> None:
        record.remove_durably(path(container))
        if isinstance(container, Foreign) and os.path.isdir(container.state_dir):
            os.rmdir(container.state_dir)


def _records() -> "Iterator[tuple[str, str, bool]]":
    """Owner and place of each lease, and whether it is one of FOREIGN_ROOT."""
    for root in (STATE_ROOT, FOREIGN_ROOT):
        try:
            names = os.listdir(root)
        except FileNotFoundError:
            continue
        for name in filter(valid_name, names):
            yield name, f"{root}/{name}/{_FILE}", root == FOREIGN_ROOT


def _load(place: str) -> Lease | None:
    try:
        text = record.read_bytes(place)
    except NotADirectoryError:
        return None
    try:
        return parse(text, place) if text is not None else None
    except RecordError as error:
        hint = "remove it when its container does not run: the network is then made anew"
        raise TorporError(str(error), hint) from error


def _counts(owner: str, lease: Lease) -> bool:
    """Whether its container runs or sleeps; what a crash of the host left does not count."""
    if lease.boot == state.boot_id():
        return True
    try:
        return state.read(Container(owner)).name in state.RESTORABLE
    except RecordError:
        return False

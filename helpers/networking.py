"""A container's own network through its life: made, kept while it sleeps, made again, removed.

A network namespace by name outlives the container that sleeps, with all that is in it. It is
configured by a process of its own beside runc, since what speaks netlink takes longer to import
than runc takes to create a container.

Where ids are mapped the namespace must belong to the container's user namespace: runc or CRIU
makes it with that, and it is configured when it is there.
"""

import os

from torpor import fault, netns, preparation, process, record, state
from torpor import lease as leases
from torpor.container import RUN_ROOT, Container
from torpor.errors import (
    HostFaultError,
    NewerFormatError,
    RecordError,
    RestoreError,
    RuntimeFailedError,
    TorporError,
)
from torpor.images import Generation
from torpor.lease import Lease, Table
from torpor.preparation import NETWORK, Plan

PROGRAM = "/usr/libexec/torpor/network"
BUILD = "build"  # all of it
RULES = "rules"  # only the firewall's: the rest still stands
HOLD = "hold"  # the link to the host stays down
SAVED = "--saved="  # what was configured when it fell asleep
TAKEN = 2  # exit status: what it had before is another's now
_TIMEOUT_S = 60.0
_STANDING = f"{RUN_ROOT}/.standing"


def standing_path(container: Container) -> str:
    """Says which network namespace and device were configured, in full."""
    return f"{_STANDING}/{container.name}"


def note(container: Container, lease: Lease) -> None:
    """Record that all of it was configured, for who wants to know whether it still stands."""
    record.make_directory(_STANDING)
    record.replace(standing_path(container), standing(container, lease).encode())


def begin(container: Container, plan: Plan) -> "Network":
    """For a fresh start: a lease, and the network on its way."""
    if not preparation.first(plan, NETWORK):
        return Network(container, plan)
    from torpor import addressing

    with Table() as table:
        _sweep(table)
        given = addressing.give(container.name, addressing.Wish(plan), table)
        require_unused(given)
        table.write(container, given)
    fault.point("leased")
    return Network(container, plan, given)


def nobodys() -> list[str]:
    """The containers that have something of a network and no lease: it was removed by hand."""
    names = {*netns.all_names(), *leases.cni_names()}
    return sorted(name for name in names if not _is_used(name))


def _sweep(table: Table) -> None:
    """What is left of containers whose state directory was removed, as by systemctl clean."""
    for name in nobodys():
        _undo(Container(name))
        _remove_bridges(Container(name), None, table)


def begin_again(
    container: Container, plan: Plan, generation: Generation, *, keeps_connections: bool
) -> "Network":
    """For a wake: the network that it fell asleep with, as far as it still stands.

    Raises RestoreError where its address became another's, and HostFaultError where a port did: a
    fresh start could not have that either.
    """
    if not preparation.first(plan, NETWORK):
        return Network(container, plan)
    text = record.read_bytes(generation.network)
    if text is None:
        raise RestoreError(f"{generation.network} is missing")
    saved = leases.parse(text, generation.network)
    require_unused(saved)
    if record.read_bytes(leases.path(container)) == text and saved.boot == state.boot_id():
        fallen = "" if saved.mapped else _fallen(container, saved)
        stands = not (saved.mapped or fallen) and (
            keeps_connections or netns.drop_connections(container)
        )
        network = Network(container, plan, saved, RULES if stands else BUILD, generation)
        network.warnings += [f"network: it is made again: {fallen}"] if fallen else []
        return network
    from torpor import addressing

    with Table() as table:
        try:
            addressing.give_again(container.name, saved, table)
        except (HostFaultError, NewerFormatError):  # that says nothing about its images
            raise
        except TorporError as error:
            raise RestoreError(error.message, error.hint) from error
        table.write(container, saved)
    fault.point("leased")
    return Network(container, plan, saved, BUILD, generation)


def _fallen(container: Container, lease: Lease) -> str:
    """What is no more of the namespace of before and its link to the host; empty where all is."""
    try:
        said = record.read_bytes(standing_path(container))
    except RecordError as error:
        return str(error)
    is_so = said is not None and said.decode() == standing(container, lease)
    return "" if is_so else "its namespace, link or bridge is not what it was"


def forget(container: Container) -> None:
    """Before a namespace is made anew: the kernel may give it the number of the one before."""
    try:
        os.unlink(standing_path(container))
    except FileNotFoundError:
        pass


def standing(container: Container, lease: Lease) -> str:
    """Identifies what was configured: another namespace or device is not that."""
    device = f"/sys/class/net/{lease.device}"
    index = process.read_small(f"{device}/ifindex").strip() if lease.device else "-"
    try:
        bridge = os.readlink(f"{device}/master").rpartition("/")[2] if lease.device else "-"
    except OSError:
        bridge = ""
    return f"{netns.identity(container)} {index} {bridge}\n"


def require_unused(lease: Lease) -> None:
    """That no process of the host listens on a port that is to be published."""
    from torpor import firewall

    for port in lease.publish:
        if firewall.port_in_use(port):
            raise HostFaultError(
                f"network: publish: {port}: a process of the host listens on that port",
                f"see: ss -lnp 'sport = :{port.host_port}'",
            )


class Network:
    """A network while its container starts; leaving the context by an error removes it."""

    def __init__(
        self,
        container: Container,
        plan: Plan,
        lease: Lease | None = None,
        what: str = BUILD,
        saved: Generation | None = None,
    ) -> None:
        self._container = container
        self._plan = plan
        self._lease = lease  # None: it has no network of its own
        self._what = what
        self._child: process.Child | None = None
        self.warnings: list[str] = []
        # The link to the host is up only when a restore is done: a packet for a connection that
        # is not there yet would be answered with a reset.
        self._is_held = saved is not None and what == BUILD
        if lease is None:
            return
        if what == BUILD:
            forget(container)
            if reason := netns.remove(container):
                raise TorporError(reason)
            if not lease.mapped:
                netns.make(container)
                fault.point("netns")
        self._spawn(saved)
        if not lease.mapped:
            self._configure()

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._lease is not None:
            self._abandon()
            leave(self._container)

    def _spawn(self, saved: Generation | None) -> None:
        reader, self._go = os.pipe()
        self._said, writer = os.pipe()
        argv = [PROGRAM, self._container.name, self._what]
        argv += [HOLD] if self._is_held else []
        argv += [f"{SAVED}{saved.netns}"] if saved else []
        try:
            self._child = process.spawn(argv, stdin=reader, stdout=writer)
        finally:
            os.close(reader)
            os.close(writer)

    def _configure(self) -> None:
        try:
            os.write(self._go, b"go\n")
        except BrokenPipeError:
            pass  # finish() says why it ended

    def attach(self, pid: int) -> None:
        """The container's namespaces are there: those of its init, pid."""
        if self._lease is not None and self._lease.mapped:
            netns.attach(self._container, pid)
            self._configure()

    def finish(self) -> None:
        """Wait until it is configured. Raises HostFaultError, RestoreError."""
        if self._child is None or self._child.status is not None:
            return
        os.close(self._go)
        status, said = process.collect(self._child, self._said, _TIMEOUT_S)
        if status:
            message, _, hint = said.strip().partition("\n")
            fault_of = RestoreError if status == TAKEN else HostFaultError
            raise fault_of(message or f"{PROGRAM} ended with status {status}", hint)
        if self._lease is not None and self._lease.kind == leases.CNI:
            preparation.write_hosts(self._container, self._plan)  # with the address it was given
        fault.point("connected")

    def release(self) -> None:
        """Let packets in, now that the container is there to get them."""
        if not self._is_held or self._lease is None:
            return
        if self._lease.device:
            from torpor import loopback

            loopback.set_up(self._lease.device)
        note(self._container, self._lease)  # only now: what is held does not stand

    def _abandon(self) -> None:
        if self._child is not None and self._child.status is None:
            os.close(self._go)
            os.close(self._said)
            process.kill_tree(self._child.pid)  # a plugin would go on with what is then undone
            self._child.wait()


def is_given(container: Container, plan: Plan) -> bool:
    """Whether the runtime is given the namespace by path, and does not make it."""
    lease = leases.read(container) if preparation.first(plan, NETWORK) else None
    return lease is not None and not lease.mapped


def save(container: Container, plan: Plan, generation: Generation, pid: int) -> None:
    """Record the network of a container that is about to sleep, whose init is pid.

    Raises TorporError, OSError.
    """
    if not preparation.first(plan, NETWORK):
        return
    lease = leases.read(container)
    if lease is None:
        raise RuntimeFailedError(f"{leases.path(container)} is gone")
    record.write_durably(generation.network, lease.serialize())
    if not netns.is_of(container, pid):  # somebody removed the name, which would end it
        netns.remove(container)
        netns.attach(container, pid)
    from torpor import netns_status

    record.write_durably(generation.netns, netns_status.save(netns.name(container)))


def leave(container: Container) -> list[str]:
    """Remove what its network no longer needs: all of it, unless it sleeps; repeatable.

    Returns warnings: what could not be undone.
    """
    if not has_any(container):
        return []
    sleeps = _sleeps(container)
    try:
        lease = leases.read(container)
    except RecordError:
        lease = None
    if sleeps and lease is not None:
        return [reason] if lease.mapped and (reason := netns.remove(container)) else []
    return _remove(container, lease)


def withdraw(container: Container) -> list[str]:
    """Remove all of its network but its lease, as when it may be on another host by now.

    Returns warnings: what could not be undone.
    """
    return _undo(container) if has_any(container) else []


def has_any(container: Container) -> bool:
    """Whether there is a network to leave, or what is left of one."""
    places = (leases.path(container), netns.path(container), leases.cni_path(container))
    return any(map(os.path.lexists, places))


def _is_used(name: str) -> bool:
    """Whether a container of this name, of torpor's or of others, has a lease."""
    places = (leases.path(Container(name)), leases.path(leases.Foreign(name)))
    return any(map(os.path.lexists, places))


def _sleeps(container: Container) -> bool:
    try:
        return state.read(container).name in state.RESTORABLE
    except RecordError:
        return False


def _remove(container: Container, lease: Lease | None) -> list[str]:
    warnings = _undo(container)
    with Table() as table:
        # Before the lease: as long as that is there, somebody comes back to remove the rest.
        warnings += _remove_bridges(container, lease, table)
        fault.point("unbridged")
        table.remove(container)
    return warnings


def _undo(container: Container) -> list[str]:
    """All that is the container's alone, but for its lease; returns warnings."""
    from torpor import bridge, firewall

    warnings = []
    if os.path.lexists(leases.cni_path(container)):
        from torpor import cni_lease

        warnings += cni_lease.remove(container)
    warnings += firewall.remove(container.name)
    fault.point("unpublished")
    # The namespace would take it along, but later.
    warnings += bridge.unplug(container.name)
    if reason := netns.remove(container):
        warnings.append(reason)
    fault.point("disconnected")
    forget(container)
    return warnings


def _remove_bridges(container: Container, lease: Lease | None, table: Table) -> list[str]:
    """Those that torpor made and nobody has a lease on, also where this one's was lost."""
    from torpor import bridge, firewall

    try:
        used = _bridges_in_use(table, container.name)
    except TorporError as error:  # it may be on any of them
        return [str(error)]
    own = {lease.network} if lease is not None and lease.kind == leases.BRIDGE else set()
    warnings = []
    for name in (own | bridge.own()) - used:
        warnings += firewall.remove_bridge(name) + bridge.remove_unused(name)
    return warnings


def idle_bridges() -> list[str]:
    """Those that torpor made and nobody has a lease on. Raises TorporError."""
    from torpor import bridge

    with Table() as table:
        return sorted(bridge.own() - _bridges_in_use(table))


def _bridges_in_use(table: Table, but: str = "") -> set[str]:
    """Those that a container other than one has a lease on. Raises TorporError."""
    others = table.others(but)
    return {lease.network for _, lease in others if lease.kind == leases.BRIDGE}

"""The CNI protocol: having other people's plugins configure a network namespace.

The specification, version 1.0, says what is given to a plugin and what it says; its conventions
say how one asks for addresses, a MAC address and ports. Configurations and plugins run as root:
they are taken only from whoever may do that.
"""

import ipaddress
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from torpor import process, record, strict_json, trust, umask
from torpor.errors import RecordError, TorporError
from torpor.json_shape import ShapeError, a_list, a_text, an_object
from torpor.lease import Publish

_CONFIGURATIONS = os.environ.get("TORPOR_CNI_CONFIG", "/etc/cni/net.d")
_SUFFIXES = (".conflist", ".conf", ".json")
_PLUGINS = os.environ.get("TORPOR_CNI_PATH", "/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni")
_FILE_MAX_BYTES = 1 << 20
_RESULT_MAX_BYTES = 1 << 20
_OLDEST = (0, 3)  # before that a result has another form
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.[0-9]{1,3}")
# A plugin may ask a server; one that does not answer must not use up the time of the undoing.
_ADD_TIMEOUT_S = 20.0
_DELETE_TIMEOUT_S = 10.0
_SHOWN_LENGTH = 200

Document = dict[str, Any]


# How plugins that give out addresses say that one is another's, host-local among them: the
# specification has no code for it.
_TAKEN = re.compile(r"not available|already|in use|taken", re.IGNORECASE)
# A plugin ends with whoever asked it: one that goes on would do what is being undone.
_LEASH = ("setpriv", "--pdeathsig", "KILL")


class TakenError(TorporError):
    """An address that was asked for is another's."""


@dataclass(frozen=True)
class Network:
    """A network configuration list; of the older form with one plugin a list of that one."""

    name: str
    path: str
    version: str
    plugins: tuple[Document, ...]


@dataclass
class Call:
    """A network's plugins with what one container asks of them, and their result if there is one.

    It is all that is needed to undo what they do.
    """

    name: str
    version: str
    plugins: list[Document]
    arguments: str  # CNI_ARGS
    interface: str  # the container's
    result: Document | None = None
    addresses: list[str] = field(default_factory=list)  # that are asked for; not in a record


@dataclass
class Result:
    """What plugins gave an interface. Addresses are "ADDRESS/LENGTH"; mac may be empty."""

    addresses: list[str] = field(default_factory=list)
    gateways: list[str] = field(default_factory=list)
    mac: str = ""


def load(name: str) -> Network:
    """The network of this name that the administrator has configured. Raises TorporError."""
    faults = []
    for path in _files():
        try:
            found = _read(path)
        except TorporError as error:
            faults.append(error)
            continue
        if found.name == name:
            _require_version(found)
            return found
    if faults:  # it may be in there
        raise faults[0]
    raise TorporError(
        f"network: cni: {_CONFIGURATIONS} has no network {name}",
        "Each of its files says its name: grep name /etc/cni/net.d/*",
    )


def _files() -> list[str]:
    """The first in the order of their names counts."""
    try:
        names = sorted(os.listdir(_CONFIGURATIONS))
    except FileNotFoundError:
        return []
    return [f"{_CONFIGURATIONS}/{name}" for name in names if name.endswith(_SUFFIXES)]


def _read(path: str) -> Network:
    try:
        trust.require(path, os.stat(path), TorporError)
        with open(path, "rb") as file:
            content = file.read(_FILE_MAX_BYTES + 1)
        if len(content) > _FILE_MAX_BYTES:
            raise ShapeError(f"it is larger than {_FILE_MAX_BYTES >> 20} MiB")
        said = an_object(strict_json.parse(content), "it")
        plugins = a_list(said.get("plugins", [said]), "plugins", an_object)
        for plugin in plugins:
            kind = a_text(plugin.get("type"), "type")
            if not kind or "/" in kind or kind.startswith("."):
                raise ShapeError(f"'type' {kind[:_SHOWN_LENGTH]!a} names no plugin")
        if not plugins:
            raise ShapeError("it has no plugins")
        version = a_text(said.get("cniVersion"), "cniVersion")
        return Network(a_text(said.get("name"), "name"), path, version, plugins)
    except (OSError, ValueError, ShapeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TorporError(f"network: cni: {path}: {reason}", "Mend that file.") from error


def _require_version(network: Network) -> None:
    found = _VERSION.fullmatch(network.version)
    if not found or (int(found[1]), int(found[2])) < _OLDEST:
        raise TorporError(
            f"network: cni: {network.path}: "
            f"'cniVersion' {network.version[:_SHOWN_LENGTH]!a} is not supported",
            "Write 1.0.0, or what its plugins know; at least 0.3.0.",
        )


def prepare(
    network: Network, interface: str, addresses: list[str], mac: str, publish: list[Publish]
) -> Call:
    """What a container asks for; addresses with or without a length. Raises TorporError."""
    able = {key for plugin in network.plugins for key in _capabilities(plugin)}
    if publish and "portMappings" not in able:
        raise TorporError(
            f"network: publish: no plugin of CNI network {network.name} publishes ports",
            f"Add portmap to {network.path}, with the capability portMappings.",
        )
    wanted: Document = {
        "portMappings": [_mapping(port) for port in publish],
        "ips": [one if "/" in one else f"{one}/{_full_length(one)}" for one in addresses],
        "mac": mac,
    }
    plugins = [_derive(network, plugin, wanted) for plugin in network.plugins]
    bare = [one.partition("/")[0] for one in addresses]
    if len(bare) > 1:  # CNI_ARGS has room for one
        for plugin in plugins:
            plugin["args"] = {"cni": {"ips": bare[1:]}}
    said = ["IgnoreUnknown=1", *(f"IP={one}" for one in bare[:1])]
    said += [f"MAC={mac}"] if mac else []
    return Call(
        network.name,
        network.version,
        plugins,
        ";".join(said),
        interface,
        addresses=bare,
    )


def _capabilities(plugin: Document) -> list[str]:
    said = plugin.get("capabilities")
    return [key for key, is_on in said.items() if is_on is True] if isinstance(said, dict) else []


def _derive(network: Network, plugin: Document, wanted: Document) -> Document:
    """A plugin's own configuration, as the specification derives it from the network's."""
    derived = {key: value for key, value in plugin.items() if key != "capabilities"}
    derived.update(name=network.name, cniVersion=network.version)
    given = {key: wanted[key] for key in _capabilities(plugin) if wanted.get(key)}
    if given:
        derived["runtimeConfig"] = given
    return derived


def _mapping(port: Publish) -> Document:
    said = {"hostPort": port.host_port, "containerPort": port.container_port}
    address = {"hostIP": port.address} if port.address else {}
    return {**said, "protocol": port.protocol, **address}


def _full_length(address: str) -> int:
    return ipaddress.ip_address(address).max_prefixlen


def add(call: Call, identity: str, place: str) -> Result:
    """Have each plugin configure the namespace at place; what fails is undone.

    Raises TorporError, among them TakenError.
    """
    result: Document | None = None
    try:
        for plugin in call.plugins:
            result = _add_one(call, plugin, result, (identity, place))
        assert result is not None
        found = _understand(result, place, call.interface)
    except (TorporError, OSError, ShapeError, ValueError) as error:
        call.result = result
        delete(call, identity, place)
        if isinstance(error, TorporError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise TorporError(
            f"network: cni: network {call.name}: {reason}", "Mend the plugin or its configuration."
        ) from error
    call.result = result
    return found


def _add_one(
    call: Call, plugin: Document, result: Document | None, where: tuple[str, str]
) -> Document:
    said = _execute("ADD", call, plugin, result, where, _ADD_TIMEOUT_S)
    try:
        return an_object(strict_json.parse(said), "its result")
    except (ValueError, ShapeError) as error:
        raise TorporError(
            f"network: cni: plugin {plugin['type']} of network {call.name}: "
            f"what it printed is no result: {str(error)[:_SHOWN_LENGTH]}",
            "Is it a CNI plugin, and of a version that fits?",
        ) from error


def _understand(result: Document, place: str, interface: str) -> Result:
    """What the result says of the container's interface."""
    found = Result()
    own = []
    for index, one in enumerate(a_list(result.get("interfaces"), "interfaces", an_object)):
        if (one.get("sandbox"), one.get("name")) == (place, interface):
            own.append(index)
            found.mac = a_text(one.get("mac"), "mac").lower()
    for one in a_list(result.get("ips"), "ips", an_object):
        if one.get("interface") is not None and one["interface"] not in own:
            continue
        found.addresses.append(str(ipaddress.ip_interface(a_text(one.get("address"), "address"))))
        if gateway := a_text(one.get("gateway"), "gateway"):
            found.gateways.append(str(ipaddress.ip_address(gateway)))
    return found


def publish_again(call: Call, identity: str, place: str) -> None:
    """Have those plugins do it again that publish ports. Raises TorporError, OSError.

    Who emptied the firewall took their rules; the interface and its addresses still stand. Whether
    the rules do, CHECK would say, but portmap 1.1 denies it wherever there is no IPv6.
    """
    where = (identity, place)
    for plugin in call.plugins:
        if not plugin.get("runtimeConfig", {}).get("portMappings"):
            continue
        try:
            _execute("DEL", call, plugin, call.result, where, _DELETE_TIMEOUT_S)
        except TorporError:
            pass  # what is not there any more
        _execute("ADD", call, plugin, call.result, where, _ADD_TIMEOUT_S)


def delete(call: Call, identity: str, place: str) -> list[str]:
    """Have the plugins undo it, the last one first; repeatable. Returns warnings.

    place is empty where the namespace is gone: they then give back what they keep elsewhere.
    """
    warnings = []
    for plugin in reversed(call.plugins):
        try:
            _execute("DEL", call, plugin, call.result, (identity, place), _DELETE_TIMEOUT_S)
        except (TorporError, OSError) as error:
            warnings.append(str(error))
    return warnings


def _execute(
    command: str,
    call: Call,
    plugin: Document,
    result: Document | None,
    where: tuple[str, str],
    timeout_s: float,
) -> bytes:
    """Run a plugin once: what it printed. Raises TorporError, OSError."""
    kind = plugin["type"]
    identity, place = where
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": identity,
        "CNI_NETNS": place,
        "CNI_IFNAME": call.interface,
        "CNI_ARGS": call.arguments,
        "CNI_PATH": _PLUGINS,
    }
    before = {"prevResult": result} if result is not None else {}
    configuration = json.dumps({**plugin, **before}).encode()
    status, said = _run(_find(kind, call.name), configuration, environment, timeout_s)
    if status:
        reason = _reason(said)
        raise (TakenError if says_taken(reason, call.addresses) else TorporError)(
            f"network: cni: plugin {kind} of network {call.name}, asked to {command}: "
            f"{reason or _end(status, timeout_s)}",
            f"Look at network {call.name} in {_CONFIGURATIONS}.",
        )
    return said


def _find(kind: str, network: str) -> str:
    for directory in _PLUGINS.split(":"):
        path = f"{directory}/{kind}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            trust.require(path, os.stat(path), TorporError)
            return path
    raise TorporError(
        f"network: cni: plugin {kind} of network {network} is not in {_PLUGINS}",
        "Install it; those of the CNI project are in the package containernetworking-plugins.",
    )


def _run(
    path: str, configuration: bytes, environment: dict[str, str], timeout_s: float
) -> tuple[int, bytes]:
    stdin = os.memfd_create("cni", os.MFD_CLOEXEC)
    with open(stdin, "r+b", buffering=0) as file:
        file.write(configuration)
        file.seek(0)
        reader, writer = os.pipe()
        try:
            argv = [*_LEASH, path]
            child = process.spawn(
                argv, stdin=stdin, stdout=writer, env=environment, umask=umask.PUBLIC
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        status, said = process.collect(child, reader, timeout_s, max_bytes=_RESULT_MAX_BYTES)
    return status, said.encode()


def _reason(said: bytes) -> str:
    """Why it failed, in its own words; empty where it has none."""
    try:
        error = an_object(strict_json.parse(said), "error")
        words = [a_text(error.get("msg"), "msg"), a_text(error.get("details"), "details")]
    except (ValueError, ShapeError):
        return ""
    text = ": ".join(filter(None, words))
    return "".join(char if char.isprintable() else " " for char in text)[:_SHOWN_LENGTH]


def says_taken(reason: str, addresses: list[str]) -> bool:
    """Whether a plugin's reason is that an address is another's."""
    patterns = [rf"(?<![\w.:]){re.escape(one)}(?![\w.:])" for one in addresses]
    return bool(_TAKEN.search(reason)) and any(re.search(one, reason) for one in patterns)


def _end(status: int, timeout_s: float) -> str:
    if status < 0:
        return f"it did not end within {timeout_s:.0f} s, or was killed by signal {-status}"
    return f"it ended with status {status} and gave no reason"


def serialize(call: Call) -> bytes:
    """A record of what was asked, from which it can be undone."""
    said = {"format": record.FORMAT, **asdict(call)}
    del said["addresses"]
    return json.dumps(said).encode()


def parse(text: bytes, where: str) -> Call:
    """The reverse of serialize(). Raises RecordError, NewerFormatError."""
    try:
        said = an_object(strict_json.parse(text), "it")
        record.require_known(said.get("format", 1), where)
        name, version, arguments, interface = (
            a_text(said.get(key), key) for key in ("name", "version", "arguments", "interface")
        )
        plugins = list(a_list(said.get("plugins"), "plugins", an_object))
        if not all(isinstance(plugin.get("type"), str) for plugin in plugins):
            raise ShapeError("a plugin has no type")
        result = an_object(said["result"], "result") if said.get("result") is not None else None
        return Call(name, version, plugins, arguments, interface, result)
    except (ValueError, ShapeError) as error:
        raise RecordError(f"{where}: not a record of a CNI network: {error}") from error


def read(path: str) -> Call | None:
    """The record at path, None where there is none. Raises RecordError."""
    text = record.read_bytes(path)
    return parse(text, path) if text is not None else None

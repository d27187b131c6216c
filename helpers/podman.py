"""A container of podman as a definition says it, as far as it can: for who moves from there."""

import os

from torpor import process, record, strict_json
from torpor.container import STATE_ROOT
from torpor.errors import TorporError
from torpor.json_shape import ShapeError, a_list, a_text, an_object, texts
from torpor.new_definition import Entry

_TIMEOUT_S = 60.0
_SAVE_TIMEOUT_S = 1800.0
# What an engine sets, and torpor too.
_OF_ENGINES = ("PATH=", "HOSTNAME=", "HOME=", "TERM=", "container=")
_BRIDGE = {"bridge": "torpor0", "subnet": "10.83.0.0/24"}


class Known:
    """What podman says of a container. Raises TorporError."""

    def __init__(self, name: str) -> None:
        if not process.find("podman"):
            raise TorporError("podman is not installed", "apt install podman")
        said = _json(["podman", "container", "inspect", "--", name], f"podman has no {name!a}")
        try:
            found = said[0] if isinstance(said, list) and said else None
            self._said = an_object(found, "it")
            self._config = an_object(self._said.get("Config"), "Config")
            self._host = an_object(self._said.get("HostConfig"), "HostConfig")
            self.image = a_text(self._said.get("Image"), "Image")
            if not self.image:
                raise ShapeError("Image is missing")
            self.notes: list[str] = []
            self._entries = [*self._read()]
        except ShapeError as error:
            raise TorporError(f"what podman says of {name!a} cannot be used: {error}") from error

    def entries(self, image: str) -> list[Entry]:
        """image is where its image is now, as a definition names it."""
        return [Entry("image", image, f"podman's image {self._name_of_image()}"), *self._entries]

    def _name_of_image(self) -> str:
        return a_text(self._said.get("ImageName"), "ImageName") or self.image[:12]

    def _read(self) -> list[Entry]:
        if self._host.get("Privileged") is True:
            self.notes.append("It was privileged in podman; here it has the rights below only.")
        return [
            *self._program(),
            *self._mounts(),
            *self._network(),
            *self._rights(),
            *self._limits(),
        ]

    def _program(self) -> list[Entry]:
        config = self._config
        entrypoint = config.get("Entrypoint")
        first = [entrypoint] if isinstance(entrypoint, str) else texts(config, "Entrypoint")
        command = [word for word in (*first, *texts(config, "Cmd")) if word]
        env = [one for one in texts(config, "Env") if not one.startswith(_OF_ENGINES)]
        cwd = a_text(config.get("WorkingDir"), "WorkingDir")
        user = a_text(config.get("User"), "User")
        host = a_text(config.get("Hostname"), "Hostname")
        signal = config.get("StopSignal")
        found = [
            Entry("command", command) if command else None,
            Entry("env", env) if env else None,
            Entry("cwd", cwd) if cwd not in ("", "/") else None,
            Entry("user", user) if user else None,
            Entry("hostname", host) if host and not self._is_id(host) else None,
            Entry("stop-signal", str(signal)) if signal not in (None, "", "SIGTERM", 15) else None,
        ]
        return [entry for entry in found if entry]

    def _is_id(self, host: str) -> bool:
        """podman calls a host by its container's id where nobody says how."""
        return a_text(self._said.get("Id"), "Id").startswith(host)

    def _mounts(self) -> list[Entry]:
        found = []
        for one in a_list(self._said.get("Mounts"), "Mounts", an_object):
            source = a_text(one.get("Source"), "Source")
            target = a_text(one.get("Destination"), "Destination")
            kind = a_text(one.get("Type"), "Type")
            if kind == "volume":
                self.notes.append(
                    f"{target}: the files of podman's volume stay where podman has them."
                )
            if kind not in ("bind", "volume") or not source:
                self.notes.append(f"{target}: a mount of type {kind} is not taken over.")
                continue
            found.append(f"{source}:{target}{'' if one.get('RW') is True else ':ro'}")
        read_only = [Entry("read-only", "yes")] if self._host.get("ReadonlyRootfs") is True else []
        return [*([Entry("mounts", found)] if found else []), *read_only]

    def _network(self) -> list[Entry]:
        mode = a_text(self._host.get("NetworkMode"), "NetworkMode")
        if mode == "host":
            return [Entry("network", "host")]
        if mode == "none":
            return []
        publish = sorted(self._ports())
        network: dict[str, object] = {**_BRIDGE, **({"publish": publish} if publish else {})}
        return [Entry("network", network, f"In podman it was {mode or 'the default network'}.")]

    def _ports(self) -> list[str]:
        found = []
        for port, places in an_object(self._host.get("PortBindings"), "PortBindings").items():
            number, _, protocol = port.partition("/")
            for place in a_list(places, "PortBindings", an_object):
                address = a_text(place.get("HostIp"), "HostIp")
                before = f"{address}:" if address not in ("", "0.0.0.0") else ""
                after = f"/{protocol}" if protocol not in ("", "tcp") else ""
                found.append(f"{before}{a_text(place.get('HostPort'), 'HostPort')}:{number}{after}")
        return found

    def _rights(self) -> list[Entry]:
        names = [name.lower().removeprefix("cap_") for name in texts(self._said, "EffectiveCaps")]
        return [Entry("capabilities", sorted(names))] if names else []

    def _limits(self) -> list[Entry]:
        wanted = {
            "memory-max": _positive(self._host.get("Memory")),
            "tasks-max": _positive(self._host.get("PidsLimit")),
            "cpu-quota": _percent(_positive(self._host.get("NanoCpus"))),
        }
        found: dict[str, object] = {key: value for key, value in wanted.items() if value}
        return [Entry("resources", found)] if found else []


def _positive(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _percent(nano_cpus: int) -> str:
    return f"{nano_cpus // 10_000_000}%" if nano_cpus else ""


def save_image(identity: str, name: str) -> str:
    """Have an image of podman's as an OCI layout, which outlasts podman's; where it is."""
    place = f"{STATE_ROOT}/.podman/{name}"
    if os.path.lexists(place):
        raise TorporError(f"{place} is there already", f"if nothing needs it: rm -r {place}")
    record.make_directory(os.path.dirname(place))
    argv = ["podman", "save", "--quiet", "--format=oci-dir", f"--output={place}", identity]
    status, _ = process.output(argv, _SAVE_TIMEOUT_S)
    if status:
        raise TorporError(f"podman save ended with {status}", f"try: {' '.join(argv)}")
    return place


def _json(argv: list[str], problem: str) -> object:
    status, text = process.output(argv, _TIMEOUT_S)
    if status:
        raise TorporError(problem, "see: podman ps --all")
    try:
        return strict_json.parse(text.encode())
    except ValueError as error:
        raise TorporError(f"{argv[0]} said something that is not JSON: {error}") from error

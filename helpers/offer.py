"""What a host that a container is to move to is told before anything stands still."""

import base64
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torpor
from torpor import bundle, criu, json_shape, mount_list, preparation, process, strict_json
from torpor import definition as definitions
from torpor.container import Container
from torpor.definition import Definition
from torpor.errors import TorporError
from torpor.json_shape import ShapeError
from torpor.preparation import Plan

FORM = "torpor move 1"
MAX_BYTES = 4 << 20
_CPU_IMAGE = "cpuinfo.img"
_CPU_TIMEOUT_S = 30.0
_NEWER = "is the same version of torpor on both hosts?"


@dataclass(frozen=True)
class Offer:
    """One container, what it needs of a host, and the host that it is on."""

    form: str
    name: str
    token: str  # what both hosts call this move
    torpor: str
    machine: str
    kernel: str
    criu: tuple[int, ...]
    cpu: bytes  # what `criu cpuinfo dump` says of this one; empty where it cannot
    size_bytes: int  # about
    definition: str
    sources: tuple[str, ...]  # paths of the host that it sees
    volumes: tuple[str, ...]  # names of those that are not its own
    image: str  # where the image is there, where that is another place than here
    digest: str  # of the image that it writes over; empty where nobody knows it
    rootfs: str  # a root file system that is there already
    starts: bool  # whether it is to wake
    enables: bool  # whether it is to start at boot


def of(
    container: Container,
    plan: Plan,
    size_bytes: int,
    *,
    image: str = "",
    digest: str = "",
    rootfs: str = "",
    starts: bool,
    enables: bool,
) -> Offer:
    """Raises TorporError."""
    text = definitions.read(container.definition_path)
    definition = definitions.load(container.name, container.definition_path)
    system = os.uname()
    return Offer(
        form=FORM,
        name=container.name,
        token=os.urandom(16).hex(),
        torpor=torpor.__version__,
        machine=system.machine,
        kernel=system.release,
        criu=criu.version(),
        cpu=_cpu(),
        size_bytes=size_bytes,
        definition=text.decode(),
        sources=tuple(_sources(definition)),
        volumes=tuple(said for key, said in plan if key == preparation.VOLUME),
        image=image,
        digest=digest,
        rootfs=rootfs,
        starts=starts,
        enables=enables,
    )


def _sources(definition: Definition) -> list[str]:
    of_definition = [one.source for one in definition.mounts if one.kind == mount_list.BIND]
    return sorted({*of_definition, *(_sources_of_bundle(definition))})


def _sources_of_bundle(definition: Definition) -> Sequence[str]:
    if not definition.bundle:
        return ()
    mounts = bundle.load(definition.bundle).get("mounts") or []
    binds = (one for one in mounts if "bind" in str(one.get("options")))
    return [str(one.get("source")) for one in binds]


def _cpu() -> bytes:
    with tempfile.TemporaryDirectory(prefix="torpor-cpu-") as directory:
        argv = ["criu", "cpuinfo", "dump", "--images-dir", directory]
        status, _ = process.output(argv, _CPU_TIMEOUT_S)
        if status:
            return b""  # not on this architecture
        with open(f"{directory}/{_CPU_IMAGE}", "rb") as file:
            return file.read()


def lacks_of_cpu(offer: Offer) -> bool:
    """Whether this host's processor cannot go on with what ran on that one's (criu(8))."""
    if not offer.cpu:
        return False
    with tempfile.TemporaryDirectory(prefix="torpor-cpu-") as directory:
        with open(f"{directory}/{_CPU_IMAGE}", "wb") as file:
            file.write(offer.cpu)
        argv = ["criu", "cpuinfo", "check", "--images-dir", directory]
        return bool(process.output(argv, _CPU_TIMEOUT_S)[0])


def dumps(offer: Offer) -> bytes:
    said = asdict(offer) | {"cpu": base64.b64encode(offer.cpu).decode()}
    return json.dumps(said).encode("ascii")


def question(name: str, token: str) -> bytes:
    """Which move it is that is asked about."""
    return json.dumps({"name": name, "token": token}).encode("ascii")


def parse(content: bytes) -> Offer:
    """Raises TorporError for what is not one."""
    try:
        said = json_shape.an_object(strict_json.parse(content), "it")
        if said.get("form") != FORM:
            raise ShapeError(f"its form is {str(said.get('form'))[:40]!a}, not {FORM!a}")
        return _read(said)
    except (ValueError, ShapeError) as error:
        raise TorporError(f"what was offered cannot be read: {error}", _NEWER) from error


def _read(said: dict[str, Any]) -> Offer:
    def text(key: str) -> str:
        return json_shape.a_text(said.get(key), key)

    def flag(key: str) -> bool:
        return said.get(key) is True

    return Offer(
        form=text("form"),
        name=text("name"),
        token=text("token"),
        torpor=text("torpor"),
        machine=text("machine"),
        kernel=text("kernel"),
        criu=json_shape.a_list(said.get("criu"), "criu", _number),
        cpu=base64.b64decode(text("cpu"), validate=True),
        size_bytes=_number(said.get("size_bytes"), "size_bytes"),
        definition=text("definition"),
        sources=json_shape.texts(said, "sources"),
        volumes=json_shape.texts(said, "volumes"),
        image=text("image"),
        digest=text("digest"),
        rootfs=text("rootfs"),
        starts=flag("starts"),
        enables=flag("enables"),
    )


def _number(value: object, key: str) -> int:
    if type(value) is not int:
        raise ShapeError(f"{key} holds something that is not a number")
    return value

"""A sleeping container that goes to another host: what of it travels, and in which form."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torpor
from torpor import (
    archive,
    bundle,
    difference,
    images,
    last_rendering,
    lease,
    mounts,
    oci_config,
    oci_layout,
    overlay,
    peers,
    preparation,
    record,
    rendering,
    state,
    volumes,
)
from torpor import definition as definitions
from torpor.archive import Writer
from torpor.container import RUN_ROOT, Container
from torpor.difference import Difference
from torpor.errors import ImageError, TorporError
from torpor.images import Generation
from torpor.last_rendering import Inputs
from torpor.lease import Lease
from torpor.peers import Origin

TREE, LAYER = "tree", "layer"  # of its root file system all travels, or what it has beyond an image
Base = tuple[str, str]
_STALE = "its memory is of no use: the next start would forget it"
# A generation's files, and what they are called in an archive.
_RECORDS = (
    ("plan", archive.PLAN),
    ("cgroups", archive.CGROUPS),
    ("mounts", archive.MOUNTS),
    ("network", archive.LEASE),
    ("netns", archive.NETNS),
)
_BY_CRIU = (("stats-dump", archive.STATISTICS), ("work/dump.log", archive.LOG))


class Sleeper:
    """A container that sleeps, and would wake if it were started now."""

    def __init__(self, container: Container) -> None:
        """Raises TorporError where it does not sleep, or cannot travel."""
        self.container = container
        current = state.read(container)
        if current.name != state.READY:
            raise TorporError(
                f"{container.name} does not sleep: its state is {current.name}",
                f"put it to sleep first: systemctl stop {container.unit}",
            )
        self.generation = Generation(container, current.generation)
        self.manifest = images.read_manifest(container, self.generation)
        self.inputs = _inputs(container)
        self.text = definitions.read(container.definition_path)
        self.definition = definitions.load(container.name, container.definition_path)
        self.base = bundle.load(self.definition.bundle) if self.definition.bundle else None
        self._require_fresh()
        self.plan = preparation.read(self.generation.plan)

    def _require_fresh(self) -> None:
        container, facts = self.container, self.manifest.facts
        if facts.get("inputs") != rendering.digest(self.definition, self.base):
            raise TorporError(f"the definition of {container.name} changed since it sleeps", _STALE)
        if facts.get("rootfs") != last_rendering.rootfs_identity(container, self.inputs):
            raise TorporError(f"the rootfs of {container.name} changed since it sleeps", _STALE)

    @property
    def volumes(self) -> list[str]:
        """The places of those that are its own."""
        return [said for key, said in self.plan if key == preparation.FILL]

    @property
    def shared_volumes(self) -> list[str]:
        """The names of those that are not, and stay here."""
        return [said for key, said in self.plan if key == preparation.VOLUME]

    @property
    def kind(self) -> str:
        return LAYER if self.definition.image else TREE

    def read(self, name: str) -> bytes | None:
        """A small file of its generation."""
        return record.read_bytes(f"{self.generation.path}/{name}")

    def lease(self) -> Lease | None:
        text = self.read("network")
        return lease.parse(text, self.generation.network) if text is not None else None

    def origin(self, base: Base) -> Origin:
        created = record.read_bytes(self.container.created_path) or b""
        return Origin(
            name=self.container.name,
            base=base[0],
            base_id=base[1],
            created=created.decode("ascii", "replace").strip() or peers.EPOCH,
            taken_s=float(self.manifest.facts.get("taken") or 0),
        )


def _inputs(container: Container) -> Inputs:
    inputs = last_rendering.load(container)
    if inputs is None:
        raise TorporError(
            f"{container.inputs_path} is missing", "start the container and stop it again"
        )
    return inputs


class Load:
    """The trees that travel, as long as they can be read."""

    def __init__(self, rootfs: Difference, own: dict[str, Difference]) -> None:
        """own are the differences of its volumes by their entries. Raises TorporError."""
        self.rootfs = rootfs
        self.trees = {archive.ROOTFS: rootfs, **own}
        self.sizes_bytes = {path: tree.size_bytes() for path, tree in self.trees.items()}


@contextmanager
def load(sleeper: Sleeper) -> Iterator[Load]:
    """What is mounted for that nobody else sees."""
    with ExitStack() as stack:
        rootfs = _of_tree(sleeper) if sleeper.kind == TREE else _of_layer(sleeper, stack)
        stack.callback(rootfs.close)
        own = {}
        for place in sleeper.volumes:
            name = f"{archive.OWN_VOLUMES}/{volumes.escape(place)}.tar"
            own[name] = difference.of_tree(volumes.own(sleeper.container, place))
            stack.callback(own[name].close)
        yield Load(rootfs, own)


def _of_tree(sleeper: Sleeper) -> Difference:
    return difference.of_tree(sleeper.inputs.rootfs)


def _of_layer(sleeper: Sleeper, stack: ExitStack) -> Difference:
    container = sleeper.container
    digest, ids, image = preparation.first(sleeper.plan, preparation.OVERLAY).split("\t")
    stack.enter_context(mounts.Private())
    mounts.mount(["-t", "tmpfs", "tmpfs", RUN_ROOT])
    record.make_directory(container.run_dir)
    overlay.mount(container, image, digest, ids)
    upper = f"{overlay.storage_path(container)}/upper"
    return difference.of_layer(overlay.rootfs_path(container), upper, image)


def header(sleeper: Sleeper, base: Base, size_bytes: int, *, is_signed: bool) -> archive.Facts:
    """What a receiver is told first."""
    facts = sleeper.manifest.facts
    return {
        "name": sleeper.container.name,
        "torpor": torpor.__version__,
        "machine": os.uname().machine,
        "root": sleeper.kind,
        "image": sleeper.inputs.image or "",
        "base": base[0],
        **{key: facts.get(key, "") for key in ("generation", "inputs", "taken", "kernel", "criu")},
        "size": str(size_bytes),
        "signed": "yes" if is_signed else "no",
    }


def write(sleeper: Sleeper, carried: Load, base: Base, to: Writer) -> None:
    """Add all entries but the manifest. Raises ImageError where an image is damaged."""
    for path, content in _documents(sleeper, carried.rootfs, base):
        to.add(path, content)
    for path, tree in carried.trees.items():
        _add_tree(path, tree, carried.sizes_bytes[path], to)
    if "shm.tar" in sleeper.manifest.files:
        _add_file(sleeper, "shm.tar", archive.SHM, to)
    to.add_directory(archive.IMAGES)
    for path in sorted(sleeper.manifest.files):
        if path.startswith("checkpoint/"):
            _add_file(sleeper, path, path, to)
    for name, path in _BY_CRIU:  # its log only where keep-logs is wanted
        if (said := sleeper.read(name)) is not None:
            to.add(path, said)


def _add_tree(path: str, tree: Difference, size_bytes: int, to: Writer) -> None:
    stream = tree.open()
    try:
        to.add_stream(path, size_bytes, stream.read)
        if stream.read(1):
            raise TorporError(f"{tree.root} changed while it was read")
    finally:
        stream.close()


def _documents(sleeper: Sleeper, changes: Difference, base: Base) -> Iterator[tuple[str, bytes]]:
    config = _require(sleeper.read("config.json"), sleeper.generation.config)
    given = sleeper.lease()
    yield archive.CONFIG, _json(peers.config_dump(sleeper.origin(base), json.loads(config), given))
    yield archive.SPEC, _json(peers.spec_dump(json.loads(config)))
    yield archive.NETWORK, _json(peers.network_status(given))
    yield archive.DEFINITION, sleeper.text
    yield archive.OCI, config
    if sleeper.base is not None:
        yield archive.BUNDLE, oci_config.dumps(sleeper.base)
    yield archive.GENERATION, _require(sleeper.read("manifest"), sleeper.generation.manifest)
    for name, path in _RECORDS:
        if (content := sleeper.read(name)) is not None:
            yield path, content
    if (created := record.read_bytes(sleeper.container.created_path)) is not None:
        yield archive.CREATED, created
    if changes.deleted:
        yield archive.DELETED, _json(changes.deleted)


def _require(content: bytes | None, path: str) -> bytes:
    if content is None:
        raise ImageError(f"{path} is missing")
    return content


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode("utf-8", "surrogateescape") + b"\n"


def _add_file(sleeper: Sleeper, path: str, name: str, to: Writer) -> None:
    """Add a large file of the generation, while its own checksum is looked at."""
    digest, size = sleeper.manifest.files[path]
    full = f"{sleeper.generation.path}/{path}"
    reader = images.FileReader(full)
    try:
        to.add_stream(name, size, reader.read)
        if reader.read(1) or reader.digest != digest:
            raise ImageError(f"{full} is damaged: its checksum does not match the manifest")
    finally:
        reader.close()


def base_image(sleeper: Sleeper, said: str | None) -> Base:
    """What peers are told that its root file system began with: an image's name and its ID.

    said is NAME or NAME=ID; a layout knows the ID itself.
    """
    image = sleeper.definition.image
    name, _, identity = (said or str(image or "")).partition("=")
    if not identity and image and image.is_layout:
        identity = oci_layout.load(image).config_digest.partition(":")[2]
    return name, identity


def total_bytes(sleeper: Sleeper, carried: Load) -> int:
    return sum(carried.sizes_bytes.values()) + sleeper.manifest.size_bytes

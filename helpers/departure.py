"""A container that goes to another host, asleep or as a snapshot: what travels, in which form."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torpor
from torpor import (
    archive,
    bundle,
    capture,
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
    rootfs,
    snapshots,
    state,
    volumes,
)
from torpor import definition as definitions
from torpor.archive import Writer
from torpor.container import RUN_ROOT, Container
from torpor.difference import Difference
from torpor.errors import ImageError, TorporError
from torpor.images import Generation, Manifest
from torpor.last_rendering import Inputs
from torpor.lease import Lease
from torpor.peers import Origin
from torpor.progress import Progress

TREE, LAYER = "tree", "layer"  # of its root file system all travels, or what it has beyond an image
Base = tuple[str, str]
_STALE = "its memory is of no use: a start would not wake it"
# A generation's files, and what they are called in an archive.
_RECORDS = (
    ("plan", archive.PLAN),
    ("cgroups", archive.CGROUPS),
    ("mounts", archive.MOUNTS),
    ("network", archive.LEASE),
    ("netns", archive.NETNS),
)
_BY_CRIU = (("stats-dump", archive.STATISTICS), ("work/dump.log", archive.LOG))


class Traveller:
    """A container's memory, and where the files are that belong to it."""

    def __init__(self, container: Container, generation: Generation, manifest: Manifest) -> None:
        """Raises TorporError where the next start would not use this memory."""
        self.container = container
        self.generation = generation
        self.manifest = manifest
        self.inputs = _inputs(container)
        self.text = definitions.read(container.definition_path)
        self.definition = definitions.load(container.name, container.definition_path)
        self.base = bundle.load(self.definition.bundle) if self.definition.bundle else None
        self._require_fresh()
        self.plan = preparation.read(generation.plan)

    def where(self, path: str) -> str:
        """Where the files are that the container has at a path of its own."""
        return path

    def _require_fresh(self) -> None:
        container, facts = self.container, self.manifest.facts
        if facts.get("inputs") != rendering.digest(self.definition, self.base):
            raise TorporError(f"the definition of {container.name} changed since then", _STALE)

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


class Sleeper(Traveller):
    """A container that sleeps, and would wake if it were started now."""

    def __init__(self, container: Container) -> None:
        """Raises TorporError where it does not sleep, or cannot travel."""
        current = state.read(container)
        if current.name != state.READY:
            raise TorporError(
                f"{container.name} does not sleep: its state is {current.name}",
                f"put it to sleep first: systemctl stop {container.unit}; "
                "or export a moment of it: --running",
            )
        generation = Generation(container, current.generation)
        super().__init__(container, generation, images.read_manifest(container, generation))

    def _require_fresh(self) -> None:
        super()._require_fresh()
        identity = last_rendering.rootfs_identity(self.container, self.inputs)
        if self.manifest.facts.get("rootfs") != identity:
            raise TorporError(f"the rootfs of {self.container.name} changed since then", _STALE)


class Kept(Traveller):
    """A snapshot, whose container may do what it wants meanwhile."""

    def __init__(self, container: Container, number: int) -> None:
        """Raises TorporError where there is none, or the container could not go back to it."""
        known = snapshots.load(container, number)
        super().__init__(container, known.snapshot, known.manifest)
        places = capture.read(known.snapshot.places)
        self._copies = {
            place.path: f"{known.snapshot.files}/{at}" for at, place in enumerate(places)
        }

    def where(self, path: str) -> str:
        return self._copies.get(path, path)

    def _require_fresh(self) -> None:
        super()._require_fresh()
        inputs = self.inputs
        image = inputs.image or rootfs.identity(inputs.rootfs)
        then = self.manifest.facts.get("rootfs", "").rpartition("+")[0]
        if inputs.image is not None and then != image:
            raise TorporError(f"the image of {self.container.name} changed since then", _STALE)


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
def load(traveller: Traveller) -> Iterator[Load]:
    """What is mounted for that nobody else sees."""
    with ExitStack() as stack:
        root = _of_tree(traveller) if traveller.kind == TREE else _of_layer(traveller, stack)
        stack.callback(root.close)
        own = {}
        for place in traveller.volumes:
            name = f"{archive.OWN_VOLUMES}/{volumes.escape(place)}.tar"
            source = traveller.where(volumes.own(traveller.container, place))
            own[name] = difference.of_tree(source)
            stack.callback(own[name].close)
        yield Load(root, own)


def _of_tree(traveller: Traveller) -> Difference:
    return difference.of_tree(traveller.where(os.path.realpath(traveller.inputs.rootfs)))


def _of_layer(traveller: Traveller, stack: ExitStack) -> Difference:
    container = traveller.container
    digest, ids, image = preparation.first(traveller.plan, preparation.OVERLAY).split("\t")
    storage = overlay.storage_path(container)
    stack.enter_context(mounts.Private())
    mounts.mount(["-t", "tmpfs", "tmpfs", RUN_ROOT])
    record.make_directory(container.run_dir)
    if (source := traveller.where(storage)) != storage:
        mounts.mount(["--bind", source, storage])  # of a snapshot, which has no index of links
        overlay.mount_to_look(container, image, ids)
    else:
        overlay.mount(container, image, digest, ids)
    return difference.of_layer(overlay.rootfs_path(container), f"{storage}/upper", image)


def header(traveller: Traveller, base: Base, size_bytes: int, *, is_signed: bool) -> archive.Facts:
    """What a receiver is told first."""
    facts = traveller.manifest.facts
    return {
        "name": traveller.container.name,
        "torpor": torpor.__version__,
        "machine": os.uname().machine,
        "root": traveller.kind,
        "image": traveller.inputs.image or "",
        "base": base[0],
        **{key: facts.get(key, "") for key in ("generation", "inputs", "taken", "kernel", "criu")},
        "size": str(size_bytes),
        "signed": "yes" if is_signed else "no",
    }


def write(traveller: Traveller, carried: Load, base: Base, to: Writer) -> None:
    """Add all entries but the manifest. Raises ImageError where an image is damaged."""
    for path, content in _documents(traveller, carried.rootfs, base):
        to.add(path, content)
    for path, tree in carried.trees.items():
        _add_tree(path, tree, carried.sizes_bytes[path], to)
    if "shm.tar" in traveller.manifest.files:
        _add_file(traveller, "shm.tar", archive.SHM, to)
    to.add_directory(archive.IMAGES)
    for path in sorted(traveller.manifest.files):
        if path.startswith("checkpoint/"):
            _add_file(traveller, path, path, to)
    for name, path in _BY_CRIU:  # its log only where keep-logs is wanted
        if (said := traveller.read(name)) is not None:
            to.add(path, said)


def _add_tree(path: str, tree: Difference, size_bytes: int, to: Writer) -> None:
    stream = tree.open()
    try:
        to.add_stream(path, size_bytes, stream.read)
        if stream.read(1):
            raise TorporError(f"{tree.root} changed while it was read")
    finally:
        stream.close()


def _documents(
    traveller: Traveller, changes: Difference, base: Base
) -> Iterator[tuple[str, bytes]]:
    config = _require(traveller.read("config.json"), traveller.generation.config)
    given = traveller.lease()
    yield (
        archive.CONFIG,
        _json(peers.config_dump(traveller.origin(base), json.loads(config), given)),
    )
    yield archive.SPEC, _json(peers.spec_dump(json.loads(config)))
    yield archive.NETWORK, _json(peers.network_status(given))
    yield archive.DEFINITION, traveller.text
    yield archive.OCI, config
    if traveller.base is not None:
        yield archive.BUNDLE, oci_config.dumps(traveller.base)
    yield archive.GENERATION, _require(traveller.read("manifest"), traveller.generation.manifest)
    for name, path in _RECORDS:
        if (content := traveller.read(name)) is not None:
            yield path, content
    if (created := record.read_bytes(traveller.container.created_path)) is not None:
        yield archive.CREATED, created
    if changes.deleted:
        yield archive.DELETED, _json(changes.deleted)


def _require(content: bytes | None, path: str) -> bytes:
    if content is None:
        raise ImageError(f"{path} is missing")
    return content


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode("utf-8", "surrogateescape") + b"\n"


def _add_file(traveller: Traveller, path: str, name: str, to: Writer) -> None:
    """Add a large file of the generation, while its own checksum is looked at."""
    digest, size = traveller.manifest.files[path]
    full = f"{traveller.generation.path}/{path}"
    reader = images.FileReader(full)
    try:
        to.add_stream(name, size, reader.read)
        if reader.read(1) or reader.digest != digest:
            raise ImageError(f"{full} is damaged: its checksum does not match the manifest")
    finally:
        reader.close()


def base_image(traveller: Traveller, said: str | None) -> Base:
    """What peers are told that its root file system began with: an image's name and its ID.

    said is NAME or NAME=ID; a layout knows the ID itself.
    """
    image = traveller.definition.image
    name, _, identity = (said or str(image or "")).partition("=")
    if not identity and image and image.is_layout:
        identity = oci_layout.load(image).config_digest.partition(":")[2]
    return name, identity


def total_bytes(traveller: Traveller, carried: Load) -> int:
    """What is to be sent now: not what went ahead."""
    files = traveller.manifest.files.items()
    sent = (size for path, (_, size) in files if not path.startswith(f"{images.AHEAD}/"))
    return sum(carried.sizes_bytes.values()) + sum(sent)


def pack(
    traveller: Traveller,
    carried: Load,
    base: Base,
    fd: int,
    *,
    sign: Callable[[bytes], bytes] | None = None,
    compressed: bool = True,
) -> None:
    """Write all of it to a descriptor, showing how far that is. Raises TorporError, OSError."""
    size_bytes = total_bytes(traveller, carried)
    said = header(traveller, base, size_bytes, is_signed=sign is not None)
    with (
        Progress(traveller.container.name, size_bytes) as progress,
        Writer(fd, said, progress.advance, compressed=compressed) as writer,
    ):
        write(traveller, carried, base, writer)
        writer.finish(sign)

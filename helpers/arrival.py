"""A container that comes as an archive: received in a staging directory, then fitted to this host.

The configuration is rendered here, as for a start. What CRIU's images are made for must be the same
in it; all else, paths above all, is this host's. What a wake compares (the definition, the root
file system) is recorded as it is here: a later change counts as it does for who fell asleep here.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torpor import (
    addressing,
    ahead,
    archive,
    bundle,
    criu,
    difference,
    facts,
    fitting,
    image_config,
    image_store,
    images,
    last_rendering,
    lease,
    mount_flags,
    mounts,
    netns_status,
    oci_config,
    oci_layout,
    overlay,
    peers,
    preparation,
    record,
    rendering,
    signature,
    state,
    strict_json,
    volumes,
)
from torpor import definition as definitions
from torpor.archive import Member, Reader
from torpor.cgroup_tree import Saved
from torpor.container import RUN_ROOT, STATE_ROOT, Container
from torpor.definition import Definition
from torpor.definition_text import moved_text
from torpor.errors import ArchiveError, TorporError
from torpor.images import Generation, Manifest
from torpor.lease import Lease, Table
from torpor.oci_config import Config, ShapeError
from torpor.patience import STARTING, Patience, Stall
from torpor.preparation import Plan
from torpor.receiving import receive_file, require_room
from torpor.tarball import Tarball
from torpor.values import WrongError
from torpor.yaml_tree import Scalar

_GENERATION = 1
_NOT_HERE = "make it here first, or let it come in another way: see torpor(1)"


@dataclass(frozen=True)
class Wishes:
    """What whoever imports says: where the root file system is, and whether anybody is believed."""

    image: str | None = None
    rootfs: str | None = None
    trusts: bool = False
    is_moved: bool = False  # in this moment: who is connected to it waits
    ahead: str = ""  # where memory is that came before, for its images to link to


class Arriving(Container):
    """A container whose definition is still beside its state, until it is in its place too."""

    __slots__ = ()

    @property
    def definition_path(self) -> str:
        return f"{self.state_dir}/definition.yaml"


class Arrival:
    """One archive on its way to become a container."""

    def __init__(self, container: Container, reader: Reader, wishes: Wishes) -> None:
        """Raises ArchiveError for one that is not for here, as far as it says so first."""
        self.container = Arriving(container.name)
        self._reader = reader
        self._wishes = wishes
        self._documents: dict[str, bytes] = {}
        self._definition: Definition | None = None
        self.warnings: list[str] = []
        self.signer = ""
        self.size_bytes = 0
        self.text = b""  # of the definition as it is to be here
        header, machine = reader.header, os.uname().machine
        if reader.is_ours and header.get("machine") != machine:
            raise self._error(f"is of a {header.get('machine', '')[:40]!a}, not {machine}")
        if not wishes.trusts:
            self._require_promise(header)
        if not reader.is_ours and not (wishes.image or wishes.rootfs):
            raise self._error(
                "is of podman, which does not say where the image is",
                "unpack the image that it began with, and name it: --image DIR",
            )

    def _require_promise(self, header: archive.Facts) -> None:
        if header.get("signed") != "yes":
            raise self._error("is not signed", "if you know where it comes from: --trust")
        if not os.path.exists(signature.TRUSTED):
            raise self._error(
                f"is signed, but no signer is trusted: there is no {signature.TRUSTED}",
                "see torpor(1) for what it holds; or take it with --trust",
            )

    def _error(self, problem: str, hint: str = "") -> ArchiveError:
        return ArchiveError(f"{self._reader.where} {problem}", hint)

    def fill(self, new: str) -> None:
        """Have all of it in new, an empty directory that becomes the container's own."""
        self._receive(new)
        self._authenticate()
        self._fit(new)

    def _receive(self, new: str) -> None:
        generation = _generation(new)
        generation.make()
        for member in self._reader.members():
            if member.path in archive.DOCUMENTS:
                self._documents[member.path] = member.read_all()
            elif member.path == archive.ROOTFS:
                self._receive_rootfs(new, member)
            elif member.path == archive.SHM:
                receive_file(member, generation.shm)
            elif os.path.dirname(member.path) == archive.IMAGES and not member.is_directory:
                receive_file(member, f"{generation.path}/{member.path}")
            elif os.path.dirname(member.path) == archive.OWN_VOLUMES:
                self._receive_volume(new, member)
            elif member.path.startswith(f"{archive.VOLUMES}/"):
                raise member.entry.error("is a volume of podman's, which does not travel")
        if self._wishes.ahead:
            ahead.adopt(self._wishes.ahead, generation)
            ahead.link(generation)
        if not self._reader.is_ours:
            tree = self._tree(new)
            self._lay_tree(tree)
            self._remove_deleted(tree)

    def _authenticate(self) -> None:
        if self._wishes.trusts:
            return
        if not self._reader.signature:
            raise self._error("is not signed, though it said so")
        self.signer = signature.verify(
            self._reader.manifest, self._reader.signature, self._reader.where
        )

    # What it is

    def _document(self, path: str) -> bytes:
        if path not in self._documents:
            raise self._error(f"lacks {path}")
        return self._documents[path]

    def _sealed(self) -> Manifest:
        """The manifest of its generation where it fell asleep."""
        place = f"{self._reader.where}: {archive.GENERATION}"
        return images.parse_manifest(self._document(archive.GENERATION), place)

    @property
    def definition(self) -> Definition:
        """As it is to be here. Raises TorporError."""
        if self._definition is None:
            self._definition = self._define()
        return self._definition

    def _define(self) -> Definition:
        where, name = self._reader.where, self.container.name
        if not self._reader.is_ours:
            self.text = f"# of podman: {archive.SPEC}\nbundle: {self._bundle}\n".encode()
            return definitions.parse(name, where, self.text)
        text = self._document(archive.DEFINITION)
        place = f"{where}: {archive.DEFINITION}"
        said = definitions.parse(self._reader.header.get("name", ""), place, text)
        base = self._json(archive.BUNDLE) if said.bundle else None
        if rendering.digest(said, base) != self._sealed().facts.get("inputs"):
            raise self._error("is not what it seems: its images are of another definition")
        moved = replace(said, name=name, **self._moves(said))
        self.text = moved_text(text, said, moved)
        found = definitions.parse(name, place, self.text)
        if found.digest() != moved.digest():
            raise self._error("has a definition whose paths cannot be changed", _NOT_HERE)
        return found

    @property
    def _bundle(self) -> str:
        return f"{self.container.state_dir}/bundle"

    def _moves(self, said: Definition) -> dict[str, Any]:
        """The keys of the definition that are others here."""
        wishes = self._wishes
        if said.image:
            if wishes.rootfs:
                raise TorporError(
                    "it writes over an image: --rootfs is for a container without one",
                    "say where the image is: --image",
                )
            return {"image": image_of(wishes.image)} if wishes.image else {}
        if wishes.image:
            raise TorporError(
                "it has a rootfs of its own: --image is for a container with one",
                "leave it out, or say with --rootfs which directory is the rootfs",
            )
        if said.bundle:
            return {"bundle": self._bundle}
        return {"rootfs": wishes.rootfs or f"{self.container.state_dir}/rootfs"}

    def _json(self, path: str) -> Config:
        return _config(self._document(path), f"{self._reader.where}: {path}")

    def _lay_bundle(self) -> None:
        """Write its bundle, which names no program of the host's."""
        base = self._json(archive.BUNDLE if self._reader.is_ours else archive.SPEC)
        files: dict[str, bytes] = {}
        try:
            bundle.require_shape(base)
            if not self._reader.is_ours:
                base, files = peers.bundle_of(base, self._bundle)
        except (ShapeError, ValueError, KeyError, TypeError) as error:
            raise self._error(f"cannot be used: {error}") from error
        if base.pop("hooks", None):
            self.warnings.append("the hooks of its bundle stay behind; those of hooks.d are used")
        annotations = base.get("annotations") or {}
        base["annotations"] = {
            key: value
            for key, value in annotations.items()
            if not key.startswith(image_config.INSTRUCTIONS)
        }
        base["root"] = {**base.get("root", {}), "path": self._wishes.rootfs or "rootfs"}
        record.make_directory(f"{self._bundle}/files")
        for name, content in files.items():
            record.replace(f"{self._bundle}/files/{name}", content)
            os.chmod(f"{self._bundle}/files/{name}", 0o644)
        record.replace(f"{self._bundle}/config.json", oci_config.dumps(base))

    # Its root file system

    def _receive_rootfs(self, new: str, member: Member) -> None:
        require_room(member.entry, new)
        if self.definition.image:
            where = self._layer()
            with self._at_home(new):
                preparation.prepare_root(self.container, [*where.plan])
                root = overlay.rootfs_path(self.container)
                self._apply(root, member)
                self._remove_deleted(root)
        elif not self._wishes.rootfs:
            tree = self._tree(new)
            self._lay_tree(tree)
            self._apply(tree, member)

    def _receive_volume(self, new: str, member: Member) -> None:
        """One of its own: which of them it has, the rendering is to say."""
        name = os.path.basename(member.path).removesuffix(".tar")
        if name.startswith("."):
            raise member.entry.error("is no volume")
        require_room(member.entry, new)
        record.make_directory(f"{new}/volumes/{name}")
        self._apply(f"{new}/volumes/{name}", member)

    def _require_own(self, plan: Plan) -> None:
        """That the volumes that came are those that it has."""
        places = [said for key, said in plan if key == preparation.FILL]
        wanted = {os.path.basename(volumes.own(self.container, place)) for place in places}
        found = f"{self.container.state_dir}/volumes"
        there = set(os.listdir(found)) if os.path.isdir(found) else set()
        if wanted != there:
            names = ", ".join(sorted(wanted ^ there))[:200]
            raise self._error(f"has other volumes than its definition: {names!a}")

    def _tree(self, new: str) -> str:
        """Where its root file system is, if that is its own."""
        return f"{new}/bundle/rootfs" if self.definition.bundle else f"{new}/rootfs"

    def _lay_tree(self, tree: str) -> None:
        """What the difference is applied to: nothing, or for podman's a copy of the image."""
        if self._wishes.rootfs or os.path.isdir(tree):
            return
        record.make_directory(os.path.dirname(tree))
        if self._reader.is_ours:
            os.mkdir(tree, 0o755)
            return
        self.warnings.append(
            "podman leaves out of its archives what a container changed in files of its image"
        )
        volumes.copy(_directory(self._wishes.image or ""), tree)

    def _remove_deleted(self, root: str) -> None:
        if not self._wishes.rootfs:
            deleted = _paths(self._documents.get(archive.DELETED), self._reader.where)
            self.warnings += difference.remove(root, deleted)

    def _layer(self) -> facts.Storage:
        image = self.definition.image
        assert image is not None
        there = self._reader.header.get("image", "")
        here = _load(image, self.definition.path).digest if image.is_layout else ""
        if there and here and there != here:
            raise self._error(
                f"began with the image {there}; {image} is {here}",
                "copy that image here with skopeo, and name it with --image",
            )
        doubt = f"nobody can tell whether {image} is the image that it began with"
        if not (there and here) and doubt not in self.warnings:
            self.warnings.append(doubt)
        return facts.storage(self.definition, None, facts.id_map(self.definition))

    def _apply(self, root: str, member: Member) -> None:
        place = f"{self._reader.where}: {member.path}"
        tree = Tarball(member.read, place, difference.ENTRIES_MAX)
        self.warnings += difference.apply(root, tree, lambda entry: require_room(entry, root))

    # Its place here

    @contextmanager
    def _at_home(self, new: str) -> Iterator[None]:
        """Where new is already the state directory, seen by this process alone."""
        with mounts.Private():
            mounts.mount(["-t", "tmpfs", "tmpfs", RUN_ROOT])
            record.make_directory(self.container.run_dir)
            others = f"{RUN_ROOT}/.others"
            record.make_directory(others)
            mounts.mount(["--bind", STATE_ROOT, others])
            mounts.mount(["-t", "tmpfs", "-o", "mode=700", "tmpfs", STATE_ROOT])
            found = {name: f"{others}/{name}" for name in os.listdir(others)}
            found[self.container.name] = f"{others}/{os.path.basename(new)}"
            for name, source in found.items():
                if os.path.isdir(source):
                    os.mkdir(f"{STATE_ROOT}/{name}", 0o700)
                    mounts.mount(["--bind", source, f"{STATE_ROOT}/{name}"])
            yield

    def _fit(self, new: str) -> None:
        definition = self.definition
        self._require_reachable(new)
        where = self._layer() if definition.image else None
        given = self._lease()
        with self._at_home(new):
            if where is not None:
                preparation.prepare_root(self.container, [*where.plan])
            self._settle(given)

    def _require_reachable(self, new: str) -> None:
        """That a user namespace's root gets to a rootfs that is in the state directory."""
        ids = facts.id_map(self.definition)
        tree = self._tree(new)
        if ids is None or not os.path.isdir(tree) or os.stat(tree).st_uid == 0:
            return
        raise self._error(
            "has a rootfs that belongs to the root of its user namespace, who cannot reach it "
            f"below {STATE_ROOT}",
            f"unpack its {archive.ROOTFS} where that user can, and name that with --rootfs",
        )

    def _lease(self) -> Lease | None:
        """Its place in a network, as it is to be given again at its first start here."""
        text = self._documents.get(archive.LEASE)
        if text is None:
            return None
        place = f"{self._reader.where}: {archive.LEASE}"
        found = lease.parse(text, place)
        addressing.require_sound(found, place)
        with Table() as table:
            addressing.give_again(self.container.name, found, table)  # that nobody has it
        found.boot = ""
        if found.device:
            found.device = addressing.new_device()
        if archive.NETNS in self._documents:
            netns_status.parse(self._documents[archive.NETNS])
        return found

    def _settle(self, given: Lease | None) -> None:
        """Write all that a wake goes by, as it is here."""
        container = self.container
        sealed = self._sealed() if self._reader.is_ours else self._of_podman()
        generation = Generation(container, _GENERATION)
        record.replace(container.definition_path, self.text)
        if archive.CREATED in self._documents:
            created = self._documents[archive.CREATED].strip()[:64] + b"\n"
            record.replace(container.created_path, created)
        if self.definition.bundle:
            self._lay_bundle()
        rendered, inputs = rendering.anticipate(container)
        saved = self._json(archive.OCI if self._reader.is_ours else archive.SPEC)
        fitting.require(saved, rendered.config, self._reader.where)
        config = {**rendered.config, "linux": dict(rendered.config["linux"])}
        self._require_own([*rendered.plan])
        self._keep_cgroup(saved, config, [*rendered.plan])
        record.replace(generation.config, oci_config.dumps(config))
        record.replace(generation.plan, preparation.serialize([*rendered.plan]))
        self._write_records(generation, given)
        rootfs = last_rendering.rootfs_identity(container, inputs)
        kept = ("taken", "kernel", "criu", "reason")
        said = {
            "name": container.name,
            "generation": str(_GENERATION),
            "inputs": inputs.digest,
            "rootfs": rootfs,
            "volumes": preparation.durable_identity(container, [*rendered.plan]),
            **{key: sealed.facts.get(key, "") for key in kept},
            **self._connections(sealed),
        }
        stall = Stall(Patience(container, STARTING))
        self.size_bytes = images.seal(generation, said, lambda: None, stall).size_bytes
        asleep = state.State().become(
            state.READY,
            f"imported from an archive of {self._reader.header.get('name', 'podman')[:64]}",
            generation=_GENERATION,
            inputs=inputs.digest,
            rootfs=rootfs,
        )
        state.write(container, asleep)

    def _connections(self, sealed: Manifest) -> dict[str, str]:
        """As a wake finds them: in an archive of any age there is none that anybody keeps."""
        if not (self._wishes.is_moved and sealed.facts.get("tcp-lock")):
            return {"boot": "", "tcp-lock": ""}
        return {"boot": state.boot_id(), "tcp-lock": criu.tcp_lock()}

    def _of_podman(self) -> Manifest:
        if not peers.is_of_runc(self._json(archive.CONFIG)):
            self.warnings.append("it was not runc that dumped it: it may not be restored")
        said = {"taken": f"{time.time():.6f}", "reason": "podman container checkpoint"}
        return Manifest(said, {})

    def _keep_cgroup(self, saved: Config, config: Config, plan: Plan) -> None:
        """By the cgroup that it was in a wake sees that its unit is another, and tells CRIU."""
        path = (saved.get("linux") or {}).get("cgroupsPath")
        if any(preparation.first(plan, key) for key in _ELSEWHERE):
            if path != config["linux"].get("cgroupsPath"):
                raise self._error(
                    f"was in the cgroup {path!a}, as its definition wants it",
                    f"import it under its own name, {self._reader.header.get('name')}",
                )
        elif isinstance(path, str):
            config["linux"]["cgroupsPath"] = path

    def _write_records(self, generation: Generation, given: Lease | None) -> None:
        if given is not None:
            record.replace(generation.network, given.serialize())
            record.replace(lease.path(self.container), given.serialize())
        for path, place in (
            (archive.CGROUPS, generation.cgroups),
            (archive.MOUNTS, generation.mounts),
            (archive.NETNS, generation.netns),
        ):
            if path in self._documents:
                record.replace(place, self._documents[path])
        # Looked at before anybody goes by them.
        Saved(generation.cgroups)
        mount_flags.Saved(generation.mounts)


_ELSEWHERE = (preparation.CGROUP, preparation.CGROUP_IN_UNIT)


def _generation(new: str) -> Generation:
    found = Arriving("new")
    found.state_dir = new
    return Generation(found, _GENERATION)


def image_of(words: str) -> oci_layout.Image:
    """What --image names. Raises TorporError."""
    try:
        return oci_layout.parse_image(Scalar(0, words, absent=False))
    except WrongError as error:
        raise TorporError(f"--image: {error.problem}", error.hint) from error


def _paths(content: bytes | None, where: str) -> list[str]:
    if content is None:
        return []
    try:
        said = strict_json.parse(content)
    except ValueError as error:
        raise ArchiveError(f"{where}: {archive.DELETED} is not JSON: {error}") from error
    if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
        raise ArchiveError(f"{where}: {archive.DELETED} is not a list of paths")
    return said


def _config(content: bytes, where: str) -> Config:
    try:
        said = strict_json.parse(content)
    except ValueError as error:
        raise ArchiveError(f"{where} is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise ArchiveError(f"{where} is not a JSON object")
    return said


def _load(image: oci_layout.Image, where: str) -> image_config.ImageConfig:
    try:
        return oci_layout.load(image)
    except WrongError as error:
        raise TorporError(f"{where}: {error.problem}", error.hint) from error


def _directory(words: str) -> str:
    """The root file system of an image that --image names."""
    image = image_of(words)
    if not image.is_layout:
        return os.path.realpath(image.directory)
    found = _load(image, "--image")
    return image_store.unpack(image.directory, found.digest, found.manifest_size_bytes)

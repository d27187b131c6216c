"""Whatever others wrote is read, or refused in one short line: every reader, led by coverage."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

import guided
from torpor import (
    accounts,
    annotations,
    bundle,
    cgroup_tree,
    cni,
    criu,
    definition,
    go_regexp,
    hooks_file,
    idmap,
    image_config,
    images,
    jobs,
    last_rendering,
    lease,
    link,
    mount_flags,
    mountinfo,
    name_files,
    netns_status,
    oci_hook,
    oci_layout,
    oci_state,
    offer,
    overlay,
    preparation,
    record,
    remedies,
    runc,
    scope,
    seccomp,
    selinux,
    signals,
    state,
    strict_json,
    transitions,
    yaml_tree,
)
from torpor.accounts import FaultError, User
from torpor.commands import history
from torpor.container import Container
from torpor.errors import TorporError
from torpor.go_regexp import LimitError, PatternError
from torpor.json_shape import ShapeError
from torpor.oci_layout import Image
from torpor.values import WrongError
from torpor.yaml_tree import Scalar

CASES = 300
LINE_MAX = 4000  # longer is no message, but what was to be complained of
LONG_S = 5.0
MACHINE = seccomp.Facts("x86_64", (6, 12), ())

# The kinds of fault that whoever calls a reader foresees.
REFUSED = (TorporError, WrongError, ShapeError, FaultError, PatternError, LimitError)

Reader = Callable[[Path, bytes], object]


def at(name: str, read: Callable[[Path], object]) -> Reader:
    """A reader of a file of this name, in a directory of its own."""

    def written(directory: Path, content: bytes) -> object:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return written


def parsed(parse: Callable[[bytes], object]) -> Reader:
    return lambda _, content: parse(content)


def worded(parse: Callable[[str], object]) -> Reader:
    return lambda _, content: parse(content.decode("utf-8", "replace"))


def container(directory: Path) -> Container:
    found = Container("web")
    found.state_dir = found.run_dir = str(directory)
    return found


def read_sealed_manifest(content: bytes) -> object:
    """Its checksum is right: what is looked at comes behind."""
    sealed = content + f"check={xxhash.xxh3_128_hexdigest(content)}\n".encode()
    return images.parse_manifest(sealed, "manifest")


def read_inputs(path: Path) -> None:
    found = last_rendering.load(container(path.parent))
    if found is not None:
        _ = (found.keep, found.stop_signal, found.owner, found.obstacles, found.machine_id)


def read_history(path: Path) -> None:
    if found := transitions.read(container(path.parent))[0]:
        history._text(found, 80)


def read_criu_log(path: Path) -> None:
    work = str(path.parent)
    remedies.of(criu.errors(work, "dump"))
    criu.dump_rolled_back(work)


def read_cni_result(content: bytes) -> None:
    try:
        said = strict_json.parse(content)
    except ValueError:
        cni._reason(content)
        return
    if isinstance(said, dict):
        try:
            cni._understand(said, "/run/netns/torpor-web", "eth0")
        except ValueError:
            pass  # as add() expects


def read_index(path: Path) -> None:
    oci_layout.load(Image(str(path.parent), True, "web"), "x86_64")


def read_image_config(content: bytes) -> None:
    try:
        said = strict_json.parse(content)
    except ValueError:
        return
    image_config.read("sha256:0", 1, {}, said if isinstance(said, dict) else {})


def read_accounts(content: bytes) -> None:
    passwd, _, group = content.partition(b"\n--\n")
    accounts.find(passwd, group, User("web", "staff"), ("audio", 5))


def read_subordinate(content: bytes) -> None:
    subuid, _, subgid = content.partition(b"\n--\n")
    idmap.subordinate("web", subuid, subgid, b"web:x:1000:1000::/:/bin/sh\n")


def read_bundle(path: Path) -> None:
    config = bundle.load(str(path.parent))
    bundle.without_own_hooks(config)
    bundle.resolve_root(str(path.parent), config)


def read_cni_configuration(path: Path) -> None:
    network = cni._read(str(path))
    cni._require_version(network)
    cni.prepare(network, "eth0", ["10.0.0.1"], "", [])


def read_pattern(content: bytes) -> None:
    pattern, _, text = content.decode("utf-8", "surrogateescape").partition("\n")
    with go_regexp.limited():
        go_regexp.matches(go_regexp.compiled(pattern), text)


def read_annotations(content: bytes) -> None:
    pairs = (line.partition("=") for line in content.decode("utf-8", "replace").split("\n"))
    said = {key: value for key, _, value in pairs}
    request = annotations.parse(said)
    annotations.systemd(said)
    annotations.require_good_slice(request.slice)
    annotations.resources(request.limits)
    if annotations.NETWORK in said:
        annotations.network(said)


READERS: dict[str, Reader] = {
    "account-files": parsed(read_accounts),
    "annotations": parsed(read_annotations),
    "bundle": at("config.json", read_bundle),
    "bundle-hooks": at("config.json", lambda path: hooks_file.find(str(path.parent))),
    "cgroups": at("cgroups", lambda path: cgroup_tree.Saved(str(path))),
    "cni-configuration": at("lab.conflist", read_cni_configuration),
    "cni-record": parsed(lambda content: cni.parse(content, "cni")),
    "cni-result": parsed(read_cni_result),
    "criu-log": at("dump.log", read_criu_log),
    "criu-question": worded(criu.Question),
    "definition": parsed(lambda content: definition.parse("web", "/etc/torpor/web.yaml", content)),
    "history": at("history", read_history),
    "hooks.d": parsed(lambda content: oci_hook.parse("/etc/hook.json", content)),
    "image-configuration": parsed(read_image_config),
    "image-index": at("index.json", read_index),
    "image-name": worded(lambda text: oci_layout.parse_image(Scalar(1, text, absent=False))),
    "inputs": at("inputs", read_inputs),
    "lease": parsed(lambda content: lease.parse(content, "network")),
    "list-jobs": worded(lambda text: jobs.cause(text, "torpor@web.service")),
    "manifest": parsed(read_sealed_manifest),
    "mount-flags": at("mounts", lambda path: mount_flags.Saved(str(path))),
    "mountinfo": worded(lambda text: [mountinfo.fields(line) for line in text.split("\n")]),
    "move-answer": parsed(lambda content: link.parse(content, "host")),
    "move-offer": parsed(offer.parse),
    "netns-status": parsed(netns_status.parse),
    "oci-state": parsed(oci_state.parse),
    "pattern": parsed(read_pattern),
    "plan": at("plan", lambda path: preparation.read(str(path))),
    "proc-cgroup": worded(lambda text: scope.path_in(text, is_v2=True)),
    "record": parsed(lambda content: record.parse(content, "test", "record")),
    "resolv.conf": parsed(name_files._without_unreachable),
    "runc-log": at("runc.log", lambda path: runc.failed_hook(container(path.parent))),
    "runc-state": at("state.json", lambda path: runc.bundle_of(str(path))),
    "seccomp": parsed(lambda content: seccomp.section("/etc/profile.json", content, MACHINE)),
    "selinux-contexts": parsed(selinux.parse_contexts),
    "signal": worded(signals.parse),
    "state": parsed(lambda content: state.parse(content, "state")),
    "storage": at("image", lambda path: overlay._recorded(str(path.parent))),
    "subordinate-ids": parsed(read_subordinate),
    "yaml": parsed(lambda content: yaml_tree.read("/etc/torpor/web.yaml", content)),
}


def message_of(error: Exception) -> str:
    return str(getattr(error, "problem", "") or error)


def one(reader: Reader, directory: Path) -> guided.Read:
    """Read once: no other fault, no long message, no long time."""

    def read(content: bytes) -> None:
        began_s = time.monotonic()
        try:
            reader(directory, content)
        except REFUSED as error:
            message = message_of(error)
            assert message and "\n" not in message and len(message) < LINE_MAX, message
        assert time.monotonic() - began_s < LONG_S

    return read


@pytest.mark.fuzz
@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses_whatever_it_is_given(name: str, tmp_path: Path) -> None:
    guided.fuzz(name, one(READERS[name], tmp_path), CASES)


def test_what_reaches_a_new_place_is_a_seed(tmp_path: Path) -> None:
    assert guided.fuzz("definition", one(READERS["definition"], tmp_path), 50) > 3


def test_every_corpus_has_its_reader() -> None:
    assert {path.name for path in guided.CORPUS.iterdir()} == set(READERS)
    assert all(any(os.scandir(directory)) for directory in guided.CORPUS.iterdir())

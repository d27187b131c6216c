"""What a container is given when systemd is its PID 1, and when that is so."""

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendered import define, made, made_of, mount_at, runc_spec

from fuzz import cases
from torpor import (
    capabilities,
    furnishing,
    preparation,
    spec,
    systemd_mode,
    systemd_mounts,
    systemd_root,
)
from torpor.errors import DefinitionError
from torpor.idmap import IdMap, Range
from torpor.image_config import ImageConfig
from torpor.systemd_root import SystemdRoot
from torpor.values import WrongError

ID = "0123456789abcdef0123456789abcdef"
UUID = "01234567-89ab-cdef-0123-456789abcdef"
FOUND = SystemdRoot(ID)
MAPPED = IdMap((Range(0, 100000, 65536),), (Range(0, 100000, 65536),))
MEMORY = ("/run", "/run/lock", "/tmp", "/var/log/journal")


def with_systemd(text: str = "", **facts: object) -> spec.Rendered:
    return made(text, **{"systemd": FOUND, "machine": "x86_64", "kernel": (6, 12), **facts})


def env(config: dict[str, Any]) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in config["process"]["env"])


@pytest.mark.parametrize(
    "command",
    [
        *(["/sbin/init"], ["/usr/sbin/init"], ["/usr/local/sbin/init"], ["/bin/init"]),
        *(["/lib/systemd"], ["/lib/systemd/systemd"], ["/opt/systemd", "--system"], ["systemd"]),
        *(["/bin/sh", "-c", "/sbin/init"], ["/bin/sh", "-c", "exec /sbin/init 3"]),
    ],
)
def test_a_command_that_is_an_init_is_known(command: list[str]) -> None:
    assert systemd_mode.applies(systemd_mode.AUTO, command)
    assert not systemd_mode.applies(systemd_mode.NEVER, command)


@pytest.mark.parametrize(
    "command",
    [
        *([], [""], ["/bin/sh"], ["/bin/sh", "-c"], ["/bin/sh", "-c", ""], ["init"]),
        *(["/opt/init"], ["/srv/sbin/init"], ["/bin/bash", "-c", "/sbin/init"]),
        *(["/usr/bin/systemd-run"], ["/sbin/initctl"], ["/bin/echo", "/sbin/init"]),
    ],
)
def test_any_other_command_is_not(command: list[str]) -> None:
    assert not systemd_mode.applies(systemd_mode.AUTO, command)
    assert systemd_mode.applies(systemd_mode.ALWAYS, command)


def test_it_finds_memory_where_it_needs_it() -> None:
    config = with_systemd().config
    places = [mount["destination"] for mount in config["mounts"]]
    for place in MEMORY:
        mount = mount_at(config, place)
        assert mount["type"] == "tmpfs"
        assert {"rw", "rprivate", "nosuid", "nodev", "tmpcopyup"} <= set(mount["options"])
    assert places.index("/run") < places.index("/run/lock")
    assert "size=65536k" in mount_at(config, "/run")["options"]
    assert "noexec" not in mount_at(config, "/run")["options"]
    assert "noexec" in mount_at(config, "/run/lock")["options"]
    assert "rw" in mount_at(config, "/sys/fs/cgroup")["options"]
    assert "ro" not in mount_at(config, "/sys/fs/cgroup")["options"]


def test_what_somebody_mounts_there_stays() -> None:
    text = (
        "mounts: [/srv/run:/run, 'tmpfs:/tmp:size=1m', '/sys/fs/cgroup:/sys/fs/cgroup:ro']\n"
        "volumes: [/var/log/journal]\n"
    )
    sources = {"/srv/run": "/srv/run", "/sys/fs/cgroup": "/sys/fs/cgroup"}
    rendered = with_systemd(text, sources=sources)
    assert rendered.warnings == ("web.yaml: mounts: yours replaces that at /sys/fs/cgroup",), (
        "the read-only one of every container"
    )
    config = rendered.config
    assert mount_at(config, "/run")["source"] == "/srv/run"
    assert "size=1m" in mount_at(config, "/tmp")["options"]
    assert mount_at(config, "/sys/fs/cgroup")["type"] == "bind"
    assert mount_at(config, "/var/log/journal")["type"] == "bind"
    assert mount_at(config, "/run/lock")["type"] == "tmpfs"
    assert preparation.FURNISH not in dict(rendered.plan), "a directory of the host is not written"
    assert dict(rendered.plan)[preparation.INIT] == "systemd"


@pytest.mark.parametrize(
    "text",
    [
        *("mounts: [/srv/log:/var/log]\n", "mounts: [/srv/log:/var]\n"),
        *("mounts: ['logs:/var/log']\n", "volumes: [/var]\n", "volumes: [/var/log]\n"),
    ],
)
def test_a_journal_in_what_is_mounted_above_is_not_hidden(text: str) -> None:
    config = with_systemd(text, sources={"/srv/log": "/srv/log"}).config
    places = [mount["destination"] for mount in config["mounts"]]
    assert "/var/log/journal" not in places
    assert {"/run", "/run/lock", "/tmp"} <= set(places)


def test_what_lies_beside_or_above_what_systemd_cannot_do_without_hides_nothing() -> None:
    text = "mounts: [/srv/log:/var/lo, /srv/log:/run/x, /srv/log:/var/log/journal/x]\n"
    config = with_systemd(text, sources={"/srv/log": "/srv/log"}).config
    assert all(mount_at(config, place)["type"] == "tmpfs" for place in MEMORY)


def test_a_journal_in_a_volume_of_the_image_is_not_hidden() -> None:
    image = ImageConfig(
        digest="sha256:1", manifest_size_bytes=1, command=("/sbin/init",), volumes=("/var/log",)
    )
    places = [mount["destination"] for mount in with_systemd(image=image).config["mounts"]]
    assert "/var/log/journal" not in places and "/var/log" in places


def test_a_tmpfs_of_the_hook_has_the_label_of_the_containers_mounts() -> None:
    options = systemd_mode.TMPFS["/run"]
    plain = {"mode": "755", "size": "65536k"}
    assert systemd_mounts.tmpfs_parameters(options, "") == plain
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    assert systemd_mounts.tmpfs_parameters(options, label) == {**plain, "context": label}


def test_what_an_image_declares_there_as_a_volume_is_memory() -> None:
    image = ImageConfig(
        digest="sha256:1",
        manifest_size_bytes=1,
        command=("/sbin/init",),
        volumes=("/run", "/tmp", "/sys/fs/cgroup", "/data"),
    )
    rendered = with_systemd(image=image)
    fills = [value for key, value in rendered.plan if key == preparation.FILL]
    assert fills == ["/data"]


def test_a_read_only_root_gets_an_id_and_room_for_state() -> None:
    rendered = with_systemd("read-only: yes\n", systemd=SystemdRoot(ID, is_recorded=False))
    mount = mount_at(rendered.config, "/etc/machine-id")
    assert mount["source"] == "/run/torpor/web/files/machine-id"
    assert "ro" in mount["options"]
    assert (preparation.MACHINE_ID, ID) in rendered.plan
    assert mount_at(rendered.config, "/var/lib/systemd")["type"] == "tmpfs"
    rendered = with_systemd("read-only: yes\nvolumes: [/var]\n")
    places = [mount["destination"] for mount in rendered.config["mounts"]]
    assert "/etc/machine-id" not in places, "it has one"
    assert "/var/lib/systemd" not in places


def test_a_writable_root_is_not_given_an_id_file() -> None:
    rendered = with_systemd(systemd=SystemdRoot(ID, is_recorded=False))
    assert preparation.MACHINE_ID not in dict(rendered.plan)
    assert env(rendered.config)["container_uuid"] == UUID


def test_its_variables_and_those_of_its_author() -> None:
    found = env(with_systemd().config)
    assert found["container"] == "torpor"
    assert found["container_uuid"] == UUID
    assert found["MEMORY_PRESSURE_WATCH"] == "/dev/null"
    found = env(with_systemd("env: {container: mine, container_uuid: other}\n").config)
    assert found["container"] == "mine"
    assert found["container_uuid"] == "other"


def test_rights_of_a_system_but_not_over_the_host() -> None:
    config = with_systemd().config
    assert config["process"]["noNewPrivileges"] is False
    bounding = config["process"]["capabilities"]["bounding"]
    assert set(bounding) == set(capabilities.FOR_SYSTEMD)
    assert "CAP_SYS_ADMIN" not in bounding
    (rule,) = config["linux"]["seccomp"]["syscalls"]
    assert rule["names"] == ["kexec_load", "kexec_file_load"]
    assert rule["action"] == "SCMP_ACT_ERRNO"
    assert "SCMP_ARCH_X86" in config["linux"]["seccomp"]["architectures"]


def test_a_systemd_is_withheld_what_others_are_and_in_a_user_namespace_only_that() -> None:
    def names(rendered: spec.Rendered) -> list[str]:
        rules = rendered.config["linux"]["seccomp"]["syscalls"]
        return [name for rule in rules for name in rule["names"]]

    withheld = ["io_uring_setup", "memfd_secret", "socket"]
    kexec = ["kexec_load", "kexec_file_load"]
    assert names(with_systemd(may_filter=True)) == withheld + kexec
    mapped = with_systemd("idmap: 0:100000:65536\n", idmap=MAPPED, may_filter=True)
    assert names(mapped) == withheld


def test_with_somebody_elses_filter_it_may_not_reboot() -> None:
    config = with_systemd("seccomp: unconfined\n").config
    assert "seccomp" not in config["linux"]
    assert "CAP_SYS_BOOT" not in config["process"]["capabilities"]["bounding"]


def test_who_gives_it_sys_admin_is_told_what_that_costs() -> None:
    (warning,) = with_systemd("capabilities: {add: [sys_admin]}\n").warnings
    assert warning.startswith("web.yaml: capabilities: with sys_admin")


def test_in_a_user_namespace_there_is_nothing_to_filter_and_a_cgroup_to_give() -> None:
    rendered = with_systemd("idmap: 0:100000:65536\n", idmap=MAPPED)
    assert "seccomp" not in rendered.config["linux"]
    assert "CAP_SYS_BOOT" in rendered.config["process"]["capabilities"]["bounding"]
    assert (preparation.DELEGATE, "yes") in rendered.plan
    assert preparation.DELEGATE not in dict(made("idmap: 0:100000:65536\n", idmap=MAPPED).plan)


@pytest.mark.parametrize("kind", ["pid", "cgroup"])
def test_without_a_namespace_of_its_own_it_is_refused(kind: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        with_systemd(f"namespaces: {{{kind}: host}}\n")
    assert f"needs a {kind} namespace of the container's own" in caught.value.message
    assert "key 'namespaces'" in caught.value.message


def test_a_bundle_without_a_cgroup_namespace_is_refused_by_its_key() -> None:
    base = runc_spec()
    base["linux"]["namespaces"] = [{"type": "pid"}, {"type": "mount"}]
    with pytest.raises(DefinitionError) as caught:
        made_of(base, "systemd: always\n", systemd=FOUND)
    assert "web.yaml:2: key 'systemd'" in caught.value.message


def test_a_bundle_keeps_its_own_rights_and_mounts() -> None:
    base = runc_spec()
    base["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "mine"})
    config = made_of(base, "systemd: always\n", systemd=FOUND).config
    assert config["process"]["capabilities"] == base["process"]["capabilities"]
    assert config["process"]["noNewPrivileges"] is True
    assert "seccomp" not in config["linux"]
    assert mount_at(config, "/tmp")["source"] == "mine"
    assert "rw" in mount_at(config, "/sys/fs/cgroup")["options"]
    assert env(config)["container_uuid"] == UUID


def test_who_tells_when_it_is_ready_finds_a_socket() -> None:
    rendered = made("notify: container\n")
    assert env(rendered.config)["NOTIFY_SOCKET"] == "/run/host/notify/socket"
    mount = mount_at(rendered.config, "/run/host/notify")
    assert mount["source"] == "/run/torpor/web/notify"
    assert "ro" in mount["options"]
    assert preparation.NOTIFY in dict(rendered.plan)
    assert "NOTIFY_SOCKET" not in env(made().config)


def test_registering_changes_no_memory_but_telling_does() -> None:
    plain = define().digest()
    assert define("register: yes\n").digest() == plain
    assert define("notify: container\n").digest() != plain
    assert define("notify: runtime\n").digest() == plain
    assert define("systemd: always\n").digest() != plain


def test_a_name_that_is_no_machines_is_not_registered() -> None:
    from torpor.definition import parse

    with pytest.raises(DefinitionError) as caught:
        parse("web_1", "web_1.yaml", b"rootfs: /srv/web\ncommand: x\nregister: yes\n")
    assert "web_1.yaml:3: key 'register'" in caught.value.message


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for place in ("run", "tmp", "etc", "var/log", "sys/fs/cgroup", "var/lib/dbus"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "etc/machine-id").write_text(f"{ID}\n")
    return tmp_path


def look(root: Path, *, read_only: bool = False) -> SystemdRoot:
    return systemd_root.look(str(root), "web", read_only=read_only)


def test_an_id_that_is_there_is_its_own(root: Path) -> None:
    assert look(root) == SystemdRoot(ID)
    assert look(root, read_only=True) == SystemdRoot(ID)


@pytest.mark.parametrize("content", [None, "", "\n", "uninitialized\n"])
def test_without_one_it_gets_one_that_stays(root: Path, content: str | None) -> None:
    if content is None:
        (root / "etc/machine-id").unlink()
    else:
        (root / "etc/machine-id").write_text(content)
    found = look(root)
    assert systemd_mode.is_machine_id(found.machine_id)
    assert not found.is_recorded
    assert look(root) == found
    assert systemd_root.derived_id("other") != found.machine_id
    (root / "var/lib/dbus/machine-id").write_text(f"{ID}\n")
    assert look(root).machine_id == ID, "systemd would take this one"


def test_who_is_told_an_id_has_that_unless_a_file_says_otherwise(root: Path) -> None:
    other = "f" * 32
    assert systemd_root.look(str(root), "web", read_only=False, told=other) == SystemdRoot(ID)
    (root / "etc/machine-id").write_text("")
    found = systemd_root.look(str(root), "web", read_only=True, told=other)
    assert found == SystemdRoot(other, is_recorded=False)
    (root / "var/lib/dbus/machine-id").write_text(f"{ID}\n")
    assert systemd_root.look(str(root), "web", read_only=True, told=other).machine_id == ID


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ([], ""),
        ([f"container_uuid={UUID}"], ID),
        (["container_uuid=x", f"container_uuid={ID.upper()}"], ID),
        ([f"container_uuid={ID}", "container_uuid="], ""),
        ([f"my_container_uuid={ID}", "container_uuid"], ""),
        ([f"container_uuid={'0' * 32}"], ""),
    ],
)
def test_the_id_that_variables_tell(env: list[str], expected: str) -> None:
    assert systemd_mode.told_id(env) == expected


def test_a_socket_that_takes_no_more_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "private")
    monkeypatch.setattr(systemd_mode, "PRIVATE_SOCKET", path)
    assert not listens()
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(path)
        assert not listens()
        full.listen(0)
        assert listens()  # which is not taken
        began_s = time.monotonic()
        assert not listens()
        assert time.monotonic() - began_s < 5


def listens() -> bool:
    return furnishing._listens(os.getpid())


@pytest.mark.parametrize("place", [*MEMORY, "/sys/fs/cgroup"])
@pytest.mark.parametrize("what", ["link", "file", "fifo"])
def test_a_place_that_is_no_directory_is_refused(root: Path, place: str, what: str) -> None:
    path = root / place[1:]
    if path.is_dir():
        path.rmdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "link":
        path.symlink_to("/etc")
    elif what == "file":
        path.touch()
    else:
        os.mkfifo(path)
    with pytest.raises(WrongError) as caught:
        look(root)
    assert place in caught.value.problem


@pytest.mark.parametrize("place", [*MEMORY, "/sys/fs/cgroup"])
def test_a_place_that_is_missing_is_made_by_the_runtime(root: Path, place: str) -> None:
    path = root / place[1:]
    if path.is_dir():
        path.rmdir()
    look(root)


def test_a_file_above_a_place_is_refused(root: Path) -> None:
    (root / "var/log").rmdir()
    (root / "var/log").touch()
    with pytest.raises(WrongError, match="/var/log"):
        look(root)


def test_a_link_above_leads_inside(root: Path) -> None:
    (root / "var/log").rmdir()
    (root / "data").mkdir()
    (root / "var/log").symlink_to("/data")
    look(root)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _nonsense(path: Path) -> None:
    path.write_text("not an id")


def _huge(path: Path) -> None:
    path.write_text("0" * 10_000)


def _zeros(path: Path) -> None:
    path.write_text("0" * 32)


@pytest.mark.parametrize("make", [_fifo, _directory, _nonsense, _huge, _zeros])
def test_an_id_file_that_is_none_is_refused(root: Path, make: Callable[[Path], None]) -> None:
    path = root / "etc/machine-id"
    path.unlink()
    make(path)
    with pytest.raises(WrongError, match="/etc/machine-id"):
        look(root)


def test_an_id_is_never_read_from_outside(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("host") / "machine-id"
    outside.write_text("f" * 32)
    (root / "etc/machine-id").unlink()
    (root / "etc/machine-id").symlink_to(outside)
    assert look(root).machine_id != "f" * 32


def test_without_a_place_for_an_id_a_read_only_root_is_refused(root: Path) -> None:
    (root / "etc/machine-id").unlink()
    with pytest.raises(WrongError, match="has no /etc/machine-id"):
        look(root, read_only=True)


@pytest.mark.fuzz
@cases(300)
@given(st.binary(max_size=200))
def test_whatever_an_id_file_holds(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "etc").mkdir()
    (root / "etc/machine-id").write_bytes(content)
    try:
        found = look(root)
    except WrongError as error:
        assert error.problem.isprintable()
    else:
        assert systemd_mode.is_machine_id(found.machine_id)
    assert stat.S_ISREG((root / "etc/machine-id").stat().st_mode)
    assert (root / "etc/machine-id").read_bytes() == content

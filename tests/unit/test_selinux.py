"""A container's labels fit each other and no other container's; without SELinux there are none."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import selinux, yaml_tree
from torpor.errors import DefinitionError
from torpor.selinux import Contexts, Labels, Selinux
from torpor.values import WrongError

PROCESS = "system_u:system_r:container_t:s0"
FILE = "system_u:object_r:container_file_t:s0"
INIT = "system_u:system_r:container_init_t:s0"
MACHINE = Contexts(PROCESS, FILE, INIT)
POLICY = f"""# comment
process = "{PROCESS}"
file = "{FILE}"
ro_file="system_u:object_r:container_ro_file_t:s0"
init_process={INIT}
nonsense
"""


def parsed(text: str) -> Selinux:
    return selinux.parse(yaml_tree.read("web.yaml", f"k: {text}".encode()).entries["k"][1])


def selinux_host(root: Path, config: str = "SELINUX=enforcing\nSELINUXTYPE=targeted\n") -> str:
    (root / "sys/fs/selinux").mkdir(parents=True)
    (root / "sys/fs/selinux/enforce").write_text("1")
    (root / "etc/selinux/targeted/contexts").mkdir(parents=True)
    (root / "etc/selinux/config").write_text(config)
    (root / "etc/selinux/targeted/contexts/lxc_contexts").write_text(POLICY)
    return str(root)


def test_a_host_without_selinux_has_no_contexts(tmp_path: Path) -> None:
    assert selinux.contexts(str(tmp_path)) is None


def test_a_host_with_selinuxfs_but_no_configuration_has_it_off(tmp_path: Path) -> None:
    root = selinux_host(tmp_path)
    (tmp_path / "etc/selinux/config").unlink()
    assert selinux.contexts(root) is None


def test_selinuxfs_that_is_mounted_read_only_is_not_for_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = selinux_host(tmp_path)
    read_only = os.statvfs_result((0, 0, 0, 0, 0, 0, 0, 0, os.ST_RDONLY, 0))
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    assert selinux.contexts(root) is None


def test_the_contexts_are_those_of_the_policy_that_is_configured(tmp_path: Path) -> None:
    assert selinux.contexts(selinux_host(tmp_path)) == MACHINE


def test_the_contexts_of_container_selinux_win(tmp_path: Path) -> None:
    root = selinux_host(tmp_path)
    own = tmp_path / "usr/share/containers/selinux/contexts"
    own.parent.mkdir(parents=True)
    own.write_text('process = "a:b:c"\n')
    assert selinux.contexts(root) == Contexts(process="a:b:c")


@pytest.mark.parametrize("config", ["", "SELINUXTYPE=../../x", "SELINUXTYPE=other"])
def test_a_policy_that_is_not_there_has_no_contexts(tmp_path: Path, config: str) -> None:
    assert selinux.contexts(selinux_host(tmp_path, config)) == Contexts()


def test_a_label_that_could_break_a_mount_option_is_none() -> None:
    assert selinux.parse_contexts(b'process = "a:b:c\\",exec"\nfile = "a:b"') == Contexts()


def test_a_container_gets_the_policys_labels_with_its_own_categories() -> None:
    level = selinux.categories("web")
    assert selinux.labels(None, MACHINE, "web") == Labels(
        PROCESS.removesuffix("s0") + level, FILE.removesuffix("s0") + level
    )


def test_a_container_of_systemd_has_the_type_that_may_manage_cgroups() -> None:
    found = selinux.labels(None, MACHINE, "web", is_init=True)
    assert found and "container_init_t" in found.process


def test_categories_stay_those_of_the_name_over_releases() -> None:
    assert selinux.categories("web") == "s0:c588,c697"


@pytest.mark.parametrize("machine", [None, MACHINE])
def test_disabled_is_no_label(machine: Contexts | None) -> None:
    assert selinux.labels(parsed("disabled"), machine, "web") is None


def test_without_selinux_labels_are_accepted_and_do_nothing() -> None:
    wanted = parsed("{process-label: 'a:b:c:s0'}")
    assert selinux.labels(wanted, None, "web") is None


def test_a_label_that_is_not_given_takes_the_level_of_the_other() -> None:
    wanted = parsed("{process-label: 'u:r:my_t:s0:c5,c7'}")
    assert selinux.labels(wanted, MACHINE, "web") == Labels("u:r:my_t:s0:c5,c7", FILE + ":c5,c7")


def test_a_policy_without_levels_gets_no_categories() -> None:
    machine = Contexts("a:b:c", "a:b:d")
    assert selinux.labels(None, machine, "web") == Labels("a:b:c", "a:b:d")


def test_a_policy_that_knows_no_containers_labels_only_what_is_given() -> None:
    assert selinux.labels(None, Contexts(), "web") is None
    found = selinux.labels(parsed("{mount-label: 'a:b:c'}"), Contexts(), "web")
    assert found and selinux.section(found) == ({}, {"mountLabel": "a:b:c"})


def test_labels_go_where_runc_looks_for_them() -> None:
    assert selinux.section(Labels("p", "m")) == ({"selinuxLabel": "p"}, {"mountLabel": "m"})


@pytest.mark.parametrize(
    "text",
    [
        "enabled",
        "",
        "[disabled]",
        "{label: 'a:b:c'}",
        "{process-label: container_t}",
        "{process-label: 'a:b:c\"'}",
        "{process-label: 'a:b:c d'}",
        "{mount-label: ''}",
        f"{{mount-label: 'a:b:{'c' * 300}'}}",
        "{process-label: '-R:b:c'}",
    ],
)
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        parsed(text)


def test_the_letters_that_ask_for_relabelling_are_no_options_of_mount() -> None:
    assert selinux.relabelling(["ro", "z"]) == (("ro",), True)
    assert selinux.relabelling(["Z", "ro"]) == (("ro",), False)
    assert selinux.relabelling(["ro"]) == (("ro",), None)
    with pytest.raises(WrongError):
        selinux.relabelling(["z", "Z"])


def test_private_files_have_the_containers_categories_and_shared_ones_none() -> None:
    label = FILE + ":c1,c2"
    assert selinux.relabel("/srv/x/", label, False) == ["chcon", "-R", "-h", label, "/srv/x"]
    assert selinux.relabel("/srv/x", label, True)[-2] == FILE


@pytest.mark.parametrize(
    "path", ["/", "//", "/etc", "//etc/", "/etc/.", "/usr/lib", "/home/me", "/root", "/a/../var"]
)
def test_a_directory_of_the_host_is_not_relabelled(path: str) -> None:
    with pytest.raises(WrongError, match="belongs to the host"):
        selinux.relabel(path, FILE, True)


def test_the_commas_of_a_label_do_not_end_a_mount_option() -> None:
    assert selinux.mount_option(FILE + ":c1,c2") == f'context="{FILE}:c1,c2"'


@cases(500)
@given(st.text(max_size=8))
def test_categories_are_two_in_order(name: str) -> None:
    low, high = selinux.categories(name).removeprefix("s0:").split(",")
    assert 0 <= int(low[1:]) < int(high[1:]) <= 1023


pieces = [
    *("process-label: ", "mount-label: ", "disabled", "a:b:c", "'a:b:c:s0'", '"', "{", "}", ", "),
    *(":", "s0:c1,c2", "é", "-R", "\n"),
]


@cases(600)
@given(st.lists(st.sampled_from(pieces), max_size=6).map("".join))
def test_whatever_is_written_is_labels_or_one_clear_error(text: str) -> None:
    try:
        wanted = parsed("{" + text + "}")
    except (WrongError, DefinitionError) as error:
        assert str(error).isprintable()
    else:
        for label in (wanted.process_label or "a", wanted.mount_label or "a"):
            assert not label.startswith("-") and not set(label) & set(' "\n')


@cases(500)
@given(st.binary(max_size=30) | st.sampled_from([b"process", b"file", b"="]))
def test_whatever_the_policy_holds_is_labels_or_nothing(content: bytes) -> None:
    found = selinux.parse_contexts(b"process = " + content)
    assert '"' not in found.process and found.file == ""

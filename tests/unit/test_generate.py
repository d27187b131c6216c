"""What the generator writes is what systemd reads; one wrong definition costs no other anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import dropin, ordering, yaml_tree
from torpor.commands import generate
from torpor.definition import parse
from torpor.dropin import Wanted
from torpor.errors import DefinitionError
from torpor.resources import Resources
from torpor.values import WrongError

PLACE = "torpor@web.service.d/10-torpor.conf"
GOOD = "rootfs: /srv/web\ncommand: [/bin/app]\n"


def said(**keys: object) -> list[str]:
    """The drop-in's lines after its header."""
    return dropin.text(Wanted("web", "/etc/torpor/web.yaml", **keys)).splitlines()[3:]  # type: ignore[arg-type]


def test_a_drop_in_says_where_it_comes_from_and_all_that_is_wanted() -> None:
    limits = Resources((("CPUWeight", "50"), ("MemoryMax", "1G"), ("MemoryLow", "5%")))
    text = dropin.text(
        Wanted(
            name="web",
            path="/etc/torpor/web.yaml",
            slice="torpor-a.slice",
            resources=limits,
            after=("postgresql.service", "torpor@db.service"),
            requires=("torpor@db.service",),
            mounts_for=("/srv/web", "/srv/data"),
        )
    )
    assert text == (
        "# Made by torpor-generator from /etc/torpor/web.yaml.\n"
        "# Change it there; systemctl edit torpor@web.service overrules it.\n"
        "\n"
        "[Unit]\n"
        "SourcePath=/etc/torpor/web.yaml\n"
        "RequiresMountsFor=/srv/web\n"
        "RequiresMountsFor=/srv/data\n"
        "Requires=torpor@db.service\n"
        "After=torpor@db.service\n"
        "After=postgresql.service\n"
        "\n"
        "[Service]\n"
        "Slice=torpor-a.slice\n"
        "CPUWeight=50\n"
        "MemoryLow=5%\n"
    )


def test_nothing_to_say_is_said_with_nothing() -> None:
    assert dropin.text(Wanted("web", "/etc/torpor/web.yaml")) == ""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/srv/%i", "/srv/%%i"),
        ("/srv/a b", '"/srv/a b"'),
        ('/srv/"', '"/srv/\\""'),
        ("/srv/it's", '"/srv/it\'s"'),
        ("/srv/a\\", '"/srv/a\\\\"'),
    ],
)
def test_a_path_means_itself_to_systemd(path: str, line: str) -> None:
    assert f"RequiresMountsFor={line}" in said(mounts_for=(path,))


def test_a_path_with_a_line_break_adds_no_line_of_its_own() -> None:
    assert said(mounts_for=("/a\n[Service]\nExecStart=/bin/x", "/a\rb")) == []


@cases(300)
@given(st.text(min_size=1))
def test_any_path_stays_on_its_line(path: str) -> None:
    text = dropin.text(Wanted("web", "/etc/torpor/web.yaml", mounts_for=(f"/{path}",)))
    assert text.count("\n") in (0, 6)


def test_a_definition_waits_for_the_mounts_and_containers_that_it_needs() -> None:
    definition = parse(
        "web",
        "/etc/torpor/web.yaml",
        b"rootfs: /srv/web\ncommand: [/bin/app]\nafter: postgresql.service\n"
        b"namespaces: {net: container:db, ipc: container:db}\n"
        b"mounts: [/srv/data:/data]\n",
    )
    assert dropin.wanted(definition) == Wanted(
        name="web",
        path="/etc/torpor/web.yaml",
        after=("postgresql.service",),
        requires=("torpor@db.service",),
        mounts_for=("/srv/web", "/srv/data"),
    )


@pytest.mark.parametrize("name", ["web", "a-b", "a.b", "a_b", "a.service", "7-"])
def test_a_name_is_the_instance_as_it_is(name: str) -> None:
    assert dropin.directory(name) == f"torpor@{name}.service.d"


class Definitions:
    """A directory of definitions, and one of generated units."""

    def __init__(self, top: Path) -> None:
        self.root, self.units = top / "etc", top / "run"
        self.root.mkdir()
        self.units.mkdir()

    def write(self, file: str, text: str) -> None:
        (self.root / file).write_text(text)

    def generate(self) -> int:
        return generate.generate(str(self.units), str(self.root))

    def made(self) -> list[str]:
        return sorted(path.name for path in self.units.iterdir())


@pytest.fixture
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definitions:
    monkeypatch.delenv("SYSTEMD_SCOPE", raising=False)
    return Definitions(tmp_path)


def test_each_definition_gets_a_drop_in_and_a_second_run_the_same(definitions: Definitions) -> None:
    definitions.write("web.yaml", GOOD)
    definitions.write("a-b.c_d.yaml", GOOD)
    assert definitions.generate() == 0
    first = (definitions.units / PLACE).read_text()
    assert "RequiresMountsFor=/srv/web\n" in first
    assert definitions.generate() == 0
    assert (definitions.units / PLACE).read_text() == first
    assert definitions.made() == ["torpor@a-b.c_d.service.d", "torpor@web.service.d"]


def test_wrong_ones_are_named_and_the_others_get_theirs(
    definitions: Definitions, capfd: pytest.CaptureFixture[str]
) -> None:
    definitions.write("a.yaml", "rootfs: [\n")
    definitions.write("b.yaml", GOOD + "hostnam: x\n")
    definitions.write("c d.yaml", GOOD)
    definitions.write("web.yaml", GOOD)
    definitions.write("z.yaml", GOOD)
    os.chmod(definitions.root / "z.yaml", 0o666)
    assert definitions.generate() == 1
    assert definitions.made() == ["torpor@web.service.d"]
    errors = capfd.readouterr().err
    for words in ("a.yaml:", "b.yaml:3: key 'hostnam'", "'c d' is no container name", "z.yaml: is"):
        assert words in errors
    assert "Traceback" not in errors


def test_a_wrong_line_elsewhere_moves_nobody(definitions: Definitions) -> None:
    limits = "slice: torpor-a.slice\nresources: {memory-max: 1G, cpu-weight: 50}\n"
    definitions.write("web.yaml", GOOD + limits + "hostnam: x\n")
    assert definitions.generate() == 1
    lines = (definitions.units / PLACE).read_text().splitlines()
    assert lines[-3:] == ["[Service]", "Slice=torpor-a.slice", "CPUWeight=50"]


def test_a_wrong_limit_leaves_the_slice_and_a_wrong_slice_the_limits() -> None:
    def rescued(text: str) -> Wanted:
        return dropin.rescued("web", "web.yaml", text.encode())

    limits = rescued("slice: x\nresources: {tasks-max: 5}")
    assert (limits.slice, limits.resources.directives) == (None, (("TasksMax", "5"),))
    assert rescued("slice: x.slice\nresources: 7").slice == "x.slice"


def test_what_editors_leave_behind_is_no_definition(definitions: Definitions) -> None:
    for file in (".web.yaml.swp", "web.yaml~", "#web.yaml#", ".hidden.yaml", "web.yaml.dpkg-old"):
        definitions.write(file, "[")
    (definitions.root / ".#web.yaml").symlink_to("nobody@nowhere")
    assert definitions.generate() == 0


def test_a_fault_of_torpors_own_is_told_and_ends_nothing(
    definitions: Definitions, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def faulty(one: Wanted) -> str:
        if one.name == "a":
            raise RecursionError("deep")
        return "good"

    monkeypatch.setattr(dropin, "text", faulty)
    definitions.write("a.yaml", GOOD)
    definitions.write("web.yaml", GOOD)
    assert definitions.generate() == 1
    assert definitions.made() == ["torpor@web.service.d"]
    assert "a.yaml: RecursionError: deep" in capfd.readouterr().err


def test_where_there_are_no_definitions_nothing_heavy_is_imported(
    library: Path, tmp_path: Path
) -> None:
    script = f"import sys; sys.path.insert(0, {str(library)!r})\n" + (
        "from torpor.commands import generate\n"
        f"assert generate.generate({str(tmp_path)!r}, {str(tmp_path / 'none')!r}) == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-ISBc", script], text=True, capture_output=True, check=True
    )
    heavy = {"yaml", "json", "ctypes", "re", "typing", "dataclasses", "hashlib", "argparse"}
    assert not set(done.stdout.split()) & heavy


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("u: db", ("torpor@db.service",)),
        ("u: [db, db, postgresql.service]", ("torpor@db.service", "postgresql.service")),
        ("u: getty@tty1.service", ("getty@tty1.service",)),
        (r"u: dev-disk-by\x2dlabel-x.device", (r"dev-disk-by\x2dlabel-x.device",)),
        ("u: web.1", ("torpor@web.1.service",)),
        ("u: []", ()),
    ],
)
def test_a_word_is_a_unit_or_the_container_of_that_name(text: str, units: tuple[str, ...]) -> None:
    node = yaml_tree.read("x", text.encode()).entries["u"][1]
    assert ordering.parse_units(node) == units


@cases(500)
@given(st.text(st.sampled_from("ab@.-_\\x2d \n%/")) | st.text(), st.sampled_from(["", ".mount"]))
def test_any_word_is_one_unit_or_refused(word: str, suffix: str) -> None:
    try:
        [unit] = ordering.parse_units(yaml_tree.Scalar(1, word + suffix, absent=False))
    except WrongError as wrong:
        assert "\n" not in wrong.problem + wrong.hint
        return
    assert not set(unit) & set(" \n%/") and unit.isascii() and len(unit) <= 255


@pytest.mark.parametrize(
    ("said", "levels"),
    [
        ("cgroups: systemd, slice: torpor-x.slice", ["torpor-x.slice"]),
        ("cgroups: systemd, slice: a-b.slice", ["a.slice", "a-b.slice"]),
        ("cgroups: systemd, slice: -.slice", []),
        ("cgroups: systemd", []),
        ("cgroups: none, slice: a-b.slice", []),
        ("cgroups: systemd, slice: a-b.slice, wrong: x", ["a.slice", "a-b.slice"]),
    ],
)
def test_a_slice_with_a_scope_in_it_is_not_stopped_before_the_scope_sleeps(
    said: str, levels: list[str]
) -> None:
    text = f"{{rootfs: /srv/web, command: /bin/app, {said}}}"
    try:
        one = dropin.wanted(parse("web", "web.yaml", text.encode()))
    except DefinitionError:
        one = dropin.rescued("web", "web.yaml", text.encode())
    found = dropin.files(one)
    found.pop("torpor@web.service.d/10-torpor.conf", None)
    assert [*found] == [f"{level}.d/10-torpor.conf" for level in levels]
    assert all("[Unit]\nDefaultDependencies=no\n" in content for content in found.values())

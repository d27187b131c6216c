"""torpor render: what would run, the same as what does run, and nothing changed by the look."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import COUNTER, Config, Container, make_bundle, make_busybox
from machine import Machine

COMMAND = ["/bin/sh", "-c", COUNTER]
SAMPLE = Path(__file__).parents[2] / "packaging/torpor.yaml.sample"
SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]}
# What a look must leave as it was: mounts, the run directory, the state directory.
SEEN = r"""
findmnt -rno TARGET,SOURCE
find /run/torpor -mindepth 1 -not -path '*/.locks*' -not -name '.*-version' -not -name '.*-options'
find "/var/lib/torpor/$1" -printf '%p %T@ %C@ %s\n' 2>/dev/null | sort
true
"""
CHECKSUMS = 'cd "$1" && find . -type f -not -path "./rootfs/*" | sort | xargs sha256sum; ls -A'


@pytest.fixture
def container(machine: Machine) -> Iterator[Container]:
    made = Container(machine, f"rendered{time.monotonic_ns()}")
    make_busybox(machine, root(made))
    made.define(rootfs=root(made), command=COMMAND)
    yield made
    made.remove()
    machine.run("rm", "-rf", root(made), f"/srv/{made.name}.d")


def root(container: Container) -> str:
    return f"/srv/{container.name}"


def seen(container: Container) -> str:
    return container.machine.run("sh", "-c", SEEN, "sh", container.name).stdout


def render(container: Container) -> Config:
    """What torpor render prints, which must be without a warning."""
    done = container.machine.run("torpor", "render", container.name)
    assert done.stderr == ""
    config: Config = json.loads(done.stdout)
    return config


def running(container: Container) -> Config:
    text = container.machine.read(f"/run/torpor/{container.name}/bundle/config.json")
    config: Config = json.loads(text)
    return config


def test_what_is_printed_is_what_runs(container: Container) -> None:
    before = render(container)
    container.start()
    now = running(container)
    assert render(container) == now
    del before["annotations"], now["annotations"]  # the first start says when it was made
    assert before == now
    container.stop()
    container.start()
    assert render(container) == running(container) == render(container)


def of_runc(machine: Machine) -> Config:
    machine.run("sh", "-ec", "rm -rf /srv/spec; mkdir /srv/spec; cd /srv/spec; runc spec")
    config: Config = json.loads(machine.read("/srv/spec/config.json"))
    machine.run("rm", "-r", "/srv/spec")
    return config


def version(config: Config) -> list[int]:
    return [int(number) for number in config["ociVersion"].split(".")]


def test_the_defaults_have_not_drifted_from_those_of_runc_spec(container: Container) -> None:
    ours, runcs = render(container), of_runc(container.machine)
    generated = ("/dev/shm", "/etc/hostname")
    mounts = [
        [mount for mount in config["mounts"] if mount["destination"] not in generated]
        for config in (ours, runcs)
    ]
    assert mounts[0] == mounts[1]
    for key in ("namespaces", "maskedPaths", "readonlyPaths", "resources"):
        assert ours["linux"][key] == runcs["linux"][key], key
    process, runc_process = ours["process"], runcs["process"]
    for kind in ("bounding", "effective", "permitted"):
        found, wanted = (one["capabilities"][kind] for one in (process, runc_process))
        assert sorted(found) == sorted(wanted), kind
    assert process["rlimits"] == runc_process["rlimits"]
    assert process["noNewPrivileges"] is runc_process["noNewPrivileges"]
    # A newer runc knows a newer specification, which is compatible.
    assert version(ours) <= version(runcs)


def test_who_is_not_root_gets_what_runc_can_run_for_them(container: Container) -> None:
    nobody = ("setpriv", "--reuid=1234", "--regid=1235", "--clear-groups")
    done = container.machine.run(*nobody, "torpor", "render", container.name)
    config = json.loads(done.stdout)
    assert "cgroupsPath" not in config["linux"]
    assert "additionalGids" not in config["process"]["user"]
    assert {"type": "user"} in config["linux"]["namespaces"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1234, "size": 1}]
    assert config["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 1235, "size": 1}]
    assert config["root"]["path"] == render(container)["root"]["path"]


def test_a_look_leaves_nothing_behind(container: Container) -> None:
    before = seen(container)
    render(container)
    assert seen(container) == before


def test_a_look_at_what_is_written_over_an_image_leaves_nothing_behind(
    container: Container,
) -> None:
    write = "echo service:x:7:8::/:/bin/sh >>/etc/passwd; "
    keys = {"image": root(container), "user": "service"}
    container.machine.write(f"{root(container)}/etc/passwd", "root:x:0:0::/:/bin/sh\n")
    container.define(**keys | {"user": "0"}, command=["/bin/sh", "-c", write + COUNTER])
    container.start()
    time.sleep(0.2)
    container.stop()
    container.define(**keys, command=COMMAND)
    before = seen(container)
    assert render(container)["process"]["user"]["uid"] == 7
    assert seen(container) == before
    for _ in range(3):  # and is in no start's way
        container.machine.run("systemctl", "start", "--no-block", container.unit)
        render(container)
        container.start()
        container.machine.run("torpor", "stop", "--fresh", container.name)


@pytest.mark.parametrize("state", ["asleep", "running"])
def test_a_look_does_not_touch_a_container(container: Container, state: str) -> None:
    container.start()
    if state == "asleep":
        container.stop()
    before = seen(container)
    render(container)
    assert seen(container) == before


def stamp(container: Container) -> str:
    """Which rendering its state directory has."""
    files = (f"/var/lib/torpor/{container.name}/{name}" for name in ("inputs", "config.json"))
    return container.machine.run("stat", "-c", "%Y %Z %i %y", *files).stdout


CHANGES = {
    "nothing": "",
    "passwd": 'echo new:x:1:1::/:/bin/sh >>"$1/etc/passwd"',
    "group": 'echo new:x:1: >>"$1/etc/group"',
    "seccomp": 'echo >>"$1.d/seccomp.json"',
    "bundle": 'echo >>"$1.d/config.json"',
    "definition": 'echo "# a comment" >>"/etc/torpor/${1#/srv/}.yaml"',
    "hooks": "mkdir -p /etc/containers/oci/hooks.d; touch /etc/containers/oci/hooks.d/none",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_start_renders_anew_only_what_changed(container: Container, change: str) -> None:
    machine, directory = container.machine, f"{root(container)}.d"
    make_bundle(machine, directory, root(container))
    machine.write(f"{directory}/seccomp.json", json.dumps(SECCOMP))
    container.define(bundle=directory, command=COMMAND, user="0", groups=[],
                     seccomp=f"{directory}/seccomp.json")  # fmt: skip
    container.start()
    time.sleep(0.2)
    container.stop()
    before = stamp(container)
    machine.run("sh", "-ec", CHANGES[change], "sh", root(container))
    container.start()
    assert (stamp(container) == before) == (change == "nothing")
    time.sleep(0.2)
    assert container.numbers().count(1) == 1, container.journal()
    machine.run("rm", "-f", "/etc/containers/oci/hooks.d/none")


def test_the_files_of_a_bundle_stay_as_they_are(container: Container) -> None:
    machine, bundle = container.machine, f"{root(container)}.d"
    make_bundle(machine, bundle, root(container))
    machine.write(f"{bundle}/notes", "of its author")
    container.define(bundle=bundle, command=COMMAND, hostname="changed", env={"A": "b"})
    before = machine.run("sh", "-c", CHECKSUMS, "sh", bundle).stdout
    assert "config.json" in before
    container.start()
    container.stop()
    container.start()
    assert running(container)["hostname"] == "changed"
    container.machine.run("torpor", "stop", "--fresh", container.name)
    assert machine.run("sh", "-c", CHECKSUMS, "sh", bundle).stdout == before


def every_key() -> str:
    """The sample with each key that is off, but for those that exclude another."""
    lines = SAMPLE.read_text().splitlines()
    options = re.compile(r"#([a-z-]+:.*|  [A-Za-z-]+: .*)")
    said = [found[1] if (found := options.fullmatch(line)) else line for line in lines]
    return "\n".join(line for line in said if not re.match("(bundle|image|userns):", line)) + "\n"


def test_a_definition_with_every_key_of_the_sample_is_rendered(container: Container) -> None:
    machine, text = container.machine, every_key()
    for before, after in (
        ("/srv/containers/web", root(container)),
        ("/srv/www", root(container)),
        ("/dev/fuse, /dev/sda:", "/dev/null, /dev/zero:"),
    ):
        assert before in text
        text = text.replace(before, after)
    assert "\nkeep-logs:" in text.replace("\n  ", "\n") and "\nidmap:" in text
    machine.write(f"/etc/torpor/{container.name}.yaml", text)
    seen_before = seen(container)
    done = machine.run("torpor", "render", container.name)
    config = json.loads(done.stdout)
    assert config["process"]["args"][0] == "/usr/sbin/nginx"
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]
    assert seen(container) == seen_before

"""The network hook: a bundle that runc or podman runs, on a bridge, and nothing left of it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_network import listening

from containers import BUSYBOX, make_bundle, make_busybox
from machine import Machine

ID = "nethook"
BUNDLE = "/srv/nethook"
BRIDGE = "nh0"
NETNS = f"torpor-{ID}"
LOOK = "ip -o link | cut -d' ' -f2; ip netns list; nft list tables; ls /run/torpor/.networks"
WARNINGS = "journalctl --sync; journalctl -t torpor -o cat | grep 'cannot be removed' || true"
LOOP = ["/bin/sh", "-c", "while :; do sleep 0.1; done"]
# A file as standard output could not be dumped.
RUN = """
runc --log /run/nethook.log run --detach --bundle "$1" "$2" </dev/null >/dev/null 2>&1
"""
RESTORE = """
runc --log /run/nethook.log restore --detach --image-path /run/nethook-images \\
    --work-path /run/nethook-images --bundle "$1" "$2" </dev/null >/dev/null 2>&1
"""


class Bundle:
    """A bundle with torpor's hooks, and the one container that runc makes of it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def make(self, network: str, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        def adapt(config: dict[str, Any]) -> None:
            config["process"]["args"] = LOOP
            if change:
                change(config)

        make_bundle(self.machine, BUNDLE, BUSYBOX, adapt)
        self.machine.run("torpor", "hooks", "add", f"--network={network}", BUNDLE)

    def annotate(self, text: str) -> None:
        config = json.loads(self.machine.read(f"{BUNDLE}/config.json"))
        config["annotations"]["io.torpor.network"] = text
        self.machine.write(f"{BUNDLE}/config.json", json.dumps(config))

    def set_hook_environment(self, stage: str, variables: list[str]) -> None:
        config = json.loads(self.machine.read(f"{BUNDLE}/config.json"))
        for hook in config["hooks"][stage]:
            hook["env"] = variables
        self.machine.write(f"{BUNDLE}/config.json", json.dumps(config))

    def run(self, script: str = RUN) -> str:
        """What runc says against running it; nothing when it runs."""
        words = ("sh", "-c", script, "sh", BUNDLE, ID)
        done = self.machine.run(*words, check=False)
        return self.machine.read("/run/nethook.log") if done.returncode else ""

    def addresses(self) -> list[str]:
        done = self.machine.run("ip", "-n", NETNS, "-j", "-4", "addr", "show", "dev", "eth0")
        return [info["local"] for info in json.loads(done.stdout)[0]["addr_info"]]

    def remove(self) -> None:
        self.machine.run("runc", "delete", "--force", ID, check=False)


def look(machine: Machine) -> str:
    return machine.run("sh", "-c", LOOK, check=False).stdout


@pytest.fixture
def bundle(machine: Machine) -> Iterator[Bundle]:
    """In the end nothing of its network is there."""
    make_busybox(machine)
    machine.run("mkdir", "-p", "/run/torpor/.networks")
    before = look(machine)
    made = Bundle(machine)
    yield made
    made.remove()
    assert look(machine) == before


def test_a_bundle_is_connected_and_disconnected(bundle: Bundle) -> None:
    bundle.make(f'{{bridge: {BRIDGE}, subnet: 10.84.0.0/24, publish: ["18080:80"]}}')
    assert bundle.run() == ""
    (address,) = bundle.addresses()
    assert address.startswith("10.84.0.")
    tables = bundle.machine.run("nft", "list", "table", "inet", f"torpor-container-{ID}").stdout
    assert f"{address}:80" in tables


def test_it_has_the_same_address_after_a_restore_by_hand(bundle: Bundle) -> None:
    bundle.make(f"{{bridge: {BRIDGE}, subnet: 10.84.0.0/24}}")
    bundle.run()
    before = bundle.addresses()
    place = ("--image-path", "/run/nethook-images", "--work-path", "/run/nethook-images")
    bundle.machine.run("runc", "checkpoint", *place, ID)
    assert NETNS not in look(bundle.machine)
    assert bundle.run(RESTORE) == ""
    assert bundle.addresses() == before


def test_a_container_whose_end_nobody_told_is_connected_again(bundle: Bundle) -> None:
    bundle.make(f"{{bridge: {BRIDGE}, subnet: 10.84.0.0/24, address: 10.84.0.9}}")
    bundle.run()
    bundle.machine.run("runc", "kill", ID, "KILL")
    bundle.machine.run("rm", "-rf", f"/run/runc/{ID}")
    assert bundle.run() == ""
    assert bundle.addresses() == ["10.84.0.9"]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ("{bridge: nh0, subnet: 10.84.0.0/33}", "subnet: '10.84.0.0/33' has a wrong length"),
        ("host", "a container that others run has that already"),
        ("{bridge: nh0", "annotation io.torpor.network"),
        ("{cni: no-such-network}", "no-such-network"),
    ],
)
def test_a_bad_annotation_is_one_message(bundle: Bundle, annotation: str, said: str) -> None:
    bundle.make(f"{{bridge: {BRIDGE}}}")
    bundle.annotate(annotation)
    refusal = bundle.run()
    assert said in refusal
    assert "Traceback" not in refusal


def test_the_hosts_network_is_not_touched(bundle: Bundle) -> None:
    def share(config: dict[str, Any]) -> None:
        linux = config["linux"]
        linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "network"]
        config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/sys"]

    bundle.make(f"{{bridge: {BRIDGE}}}", share)
    assert "the container has the host's network namespace" in bundle.run()


def test_a_port_that_a_process_of_the_host_has_is_refused(bundle: Bundle) -> None:
    with listening(bundle.machine, 18082):
        bundle.make(f'{{bridge: {BRIDGE}, subnet: 10.84.0.0/24, publish: ["18082:80"]}}')
        assert "a process of the host listens on that port" in bundle.run()


CNI = """{"cniVersion": "1.0.0", "name": "nh-lan", "plugins": [{"type": "ptp",
"ipam": {"type": "host-local", "subnet": "10.86.0.0/24"}}]}"""


@pytest.mark.parametrize("moment", ["bridge", "wired", "published", "cni-asked", "cni-added"])
def test_nothing_is_left_of_a_killed_one_when_the_container_is_deleted(
    bundle: Bundle, moment: str
) -> None:
    machine = bundle.machine
    machine.write("/etc/cni/net.d/nh-lan.conflist", CNI)
    is_cni = moment.startswith("cni")
    bundle.make("{cni: nh-lan}" if is_cni else f"{{bridge: {BRIDGE}, subnet: 10.84.0.0/24}}")
    fault = [f"TORPOR_FAULT={moment}=stop", "TORPOR_FAULT_FILE=/run/fault"]
    bundle.set_hook_environment("createRuntime", fault)
    machine.run("rm", "-f", "/run/fault")
    runc = machine.popen("sh", "-c", RUN, "sh", BUNDLE, ID)
    machine.run("timeout", "20", "sh", "-c", "until [ -s /run/fault ]; do sleep 0.05; done")
    machine.run("sh", "-c", "kill -9 $(cut -d' ' -f2 /run/fault)")
    runc.communicate("", timeout=30)
    assert runc.returncode
    bundle.set_hook_environment("createRuntime", [])
    assert bundle.run() == ""  # the next of this id
    assert len(bundle.addresses()) == 1
    bundle.remove()
    machine.run("rm", "/etc/cni/net.d/nh-lan.conflist")
    assert machine.run("ls", "/var/lib/cni/networks/nh-lan", check=False).stdout.count("10.86") == 0


def test_podman_runs_it(machine: Machine) -> None:
    make_busybox(machine)
    before = look(machine)
    annotation = f"io.torpor.network={{bridge: {BRIDGE}, subnet: 10.84.0.0/24, address: 10.84.0.7}}"
    # The test machine has no pids controller.
    options = (
        "--network=none",
        "--pids-limit=0",
        f"--annotation={annotation}",
        f"--name={ID}",
        "--detach",
    )
    call = 'systemd-run --quiet --scope --collect "$@" </dev/null >/run/podman.log 2>&1'
    command = ("podman", "run", *options, "--rootfs", BUSYBOX, *LOOP)
    try:
        machine.run("sh", "-c", call, "sh", *command)
        links = machine.run("podman", "exec", ID, "/bin/busybox", "ip", "addr").stdout
        assert "10.84.0.7/24" in links
    finally:
        machine.run("podman", "rm", "--force", "--time=0", ID, check=False)
    assert look(machine) == before
    assert machine.run("sh", "-c", WARNINGS).stdout == ""  # poststop hooks have no PATH

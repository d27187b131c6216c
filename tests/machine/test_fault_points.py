"""Each step of each verb, cut off: the next start has one answer, and nothing is left behind."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import Container
from machine import Machine
from subjects import PROGRAM, define, install, remove

TOP = Path(__file__).resolve().parents[2]
ACTION_SCRIPT = "/usr/libexec/torpor/criu-action"
# Kills CRIU, runc or nobody before an action of CRIU's, once, where a file of the container's name
# says so; nobody has CRIU roll back.
KILLER = """#!/bin/sh
name=/run/trials/${TORPOR_CHANNEL##*/}
[ -d /run/trials ] && echo "$CRTOOLS_SCRIPT_ACTION" >>"$name.actions"
if [ -s "$name.criu" ] && read -r action victim <"$name.criu" &&
        [ "$action" = "$CRTOOLS_SCRIPT_ACTION" ]; then
    rm "$name.criu"
    read -r _ _ _ runc _ <"/proc/$PPID/stat"
    case $victim in criu) kill -9 "$PPID" ;; runc) kill -9 "$runc" ;; *) exit 1 ;; esac
    sleep 0.1
fi
exec "$0.real"
"""
EXCHANGE = 'mv "$1" "$1.real" && cat >"$1" && chmod 755 "$1"'
CNI = {
    "cniVersion": "1.0.0",
    "name": "faulty",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "fp1",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
NAMED = re.compile(r'fault\.point\("([^"]+)"\)')


def on_bridge(number: int) -> dict[str, object]:
    """A network on a bridge that no other container keeps."""
    return {
        "bridge": f"fp{number}",
        "subnet": f"10.78.{number}.0/24",
        "publish": [f"{20080 + number}:80/tcp"],
    }


def kinds(machine: Machine) -> dict[str, list[Container]]:
    """Containers of each kind of which the helpers take steps of their own."""
    machine.write("/etc/cni/net.d/faulty.conflist", json.dumps(CNI))
    plain = [define(machine, f"plain{number}") for number in range(3)]
    bridged = [define(machine, f"bridged{number}", network=on_bridge(number)) for number in (2, 3)]
    connected = define(machine, "connected", network={"cni": "faulty", "publish": ["20090:80/tcp"]})
    layered = define(machine, "layered", image="rootfs", volumes=["/kept"])
    return {"plain": plain, "bridged": bridged, "connected": [connected], "layered": [layered]}


OF_MOVES = {"leaving", "landed", "moved"}  # between two machines: test_migrate


@pytest.fixture
def prepared(machine: Machine) -> Iterator[dict[str, list[Container]]]:
    install(machine)
    unit = "/etc/systemd/system/torpor@.service.d/fault.conf"
    machine.write(
        unit,
        "[Service]\nEnvironmentFile=-/run/trials/%i\nTimeoutStartSec=6s\nTimeoutStopSec=3s\n",
    )
    machine.run("sh", "-c", EXCHANGE, "sh", ACTION_SCRIPT, input=KILLER)
    machine.run("systemctl", "daemon-reload")
    made = kinds(machine)
    for container in [one for some in made.values() for one in some]:
        container.start()
    yield made
    for container in [one for some in made.values() for one in some]:
        container.systemctl("stop", check=False)
        machine.run("torpor", "discard", container.name, check=False)  # and its network
        remove(container)
    # What CNI's plugins make once and leave.
    machine.run("sh", "-c", "ip link delete fp1; nft flush ruleset; rm -rf /var/lib/cni")
    machine.run("mv", f"{ACTION_SCRIPT}.real", ACTION_SCRIPT)
    machine.run("rm", "-rf", unit, "/run/trials", "/etc/cni/net.d/faulty.conflist")
    machine.run("systemctl", "daemon-reload")


def test_whatever_is_cut_off_the_next_start_has_one_answer(
    prepared: dict[str, list[Container]],
) -> None:
    machine = prepared["plain"][0].machine
    words = [
        f"{kind}={','.join(one.name for one in containers)}"
        for kind, containers in prepared.items()
    ]
    done = machine.run("python3", f"{PROGRAM}/fault_points.py", *words, timeout=1800)
    found = json.loads(done.stdout)
    assert found["faults"] == [], "\n".join(found["faults"])
    named = {
        name for path in TOP.glob("helpers/**/*.py") for name in NAMED.findall(path.read_text())
    }
    assert named - set(found["passed"]) == OF_MOVES
    print(found["cases"])

"""The cgroup hook in a bundle that people run with runc themselves, in a slice of its own."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from machine import CommandFailed, Machine

NAME = "cgroup-hook"
BUNDLE = f"/srv/{NAME}"
SLICE = "torpor-web.slice"
SCOPE = f"runc-{NAME}.scope"
PLACE = f"/torpor.slice/{SLICE}/{SCOPE}"
HOST_ID = 100000
# The container outlives the call. runc opens its own /dev/null for it: CRIU can keep that.
CALL = 'rm -f $0; runc --systemd-cgroup --log $0 "$@" </dev/null >/dev/null 2>&1 || cat $0'
LOG = f"/run/{NAME}.log"
IMAGE = ("--image-path", f"{BUNDLE}/image", "--work-path", f"{BUNDLE}/work")
MAPPING = [{"containerID": 0, "hostID": HOST_ID, "size": 65536}]

Change = Callable[[dict[str, Any]], None]


class Bundle:
    """A bundle at BUNDLE that asks for SLICE, and the one container that is run of it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        names = ("bin", "dev", "proc", "sys", "tmp")
        machine.run("mkdir", "-p", *(f"{BUNDLE}/rootfs/{name}" for name in names))
        machine.run("cp", "/bin/busybox", f"{BUNDLE}/rootfs/bin/busybox")
        for name in ("sh", "mkdir", "sleep"):
            machine.run("ln", "-sf", "busybox", f"{BUNDLE}/rootfs/bin/{name}")
        machine.run("runc", "spec", "--bundle", BUNDLE)
        self.change(self._make_plain)
        machine.run("torpor", "hooks", "add", "--slice", SLICE, BUNDLE)

    @staticmethod
    def _make_plain(config: dict[str, Any]) -> None:
        loop = "while :; do busybox usleep 50000; done"
        config["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", loop]}
        config["linux"]["cgroupsPath"] = f"{SLICE}:runc:{NAME}"

    def change(self, change: Change) -> None:
        config = json.loads(self.machine.read(f"{BUNDLE}/config.json"))
        change(config)
        self.machine.write(f"{BUNDLE}/config.json", json.dumps(config))

    def limit(self, **limits: str) -> None:
        def change(config: dict[str, Any]) -> None:
            for key, value in limits.items():
                config["annotations"]["io.torpor.resources." + key.replace("_", "-")] = value

        self.change(change)

    def map_root(self) -> None:
        """Give it a user namespace, and a rootfs and cgroup mount that its root can write to."""
        self.machine.run("chown", "-hR", f"{HOST_ID}:{HOST_ID}", f"{BUNDLE}/rootfs")
        self.machine.run("chmod", "711", "/srv", BUNDLE)
        self.change(map_root)

    def runc(self, *words: str) -> str:
        """What runc has against it; nothing when it did what it was asked."""
        return self.machine.run("sh", "-c", CALL, LOG, *words).stdout

    def run(self) -> str:
        return self.runc("run", "--detach", "--bundle", BUNDLE, NAME)

    def execute(self, *words: str) -> int:
        return self.machine.run("runc", "exec", NAME, *words, check=False).returncode

    def property(self, name: str) -> str:
        show = ("systemctl", "show", "--value", f"--property={name}", SCOPE)
        return self.machine.run(*show).stdout.strip()

    def is_gone(self) -> bool:
        known = self.machine.run("runc", "state", NAME, check=False).returncode == 0
        return not known and self.property("ActiveState") == "inactive"

    def owner(self, path: str) -> str:
        stat = ("stat", "--format=%u:%g", f"/sys/fs/cgroup{path}")
        return self.machine.run(*stat).stdout.strip()

    def remove(self) -> None:
        self.machine.run("runc", "delete", "--force", NAME, check=False)
        self.machine.run("systemctl", "stop", SCOPE, check=False)
        self.machine.run("rm", "-rf", BUNDLE, LOG, f"/var/lib/torpor/{NAME}")


@pytest.fixture
def bundle(machine: Machine) -> Iterator[Bundle]:
    made = Bundle(machine)
    yield made
    made.remove()


def map_root(config: dict[str, Any]) -> None:
    """A user namespace, and cgroups that can be written to, which runc 1.1 takes for another's."""
    linux = config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    for mount in config["mounts"]:
        if mount["type"] == "cgroup":
            mount |= {"source": "cgroup2", "options": ["nosuid", "noexec", "nodev", "rw"]}


def test_the_file_for_podman_is_installed(machine: Machine) -> None:
    file = json.loads(machine.read("/usr/share/containers/oci/hooks.d/50-torpor-cgroup.json"))
    assert machine.run("test", "-x", file["hook"]["path"]).returncode == 0


def test_a_container_in_its_slice_runs_within_its_limits(bundle: Bundle) -> None:
    bundle.limit(tasks_max="77", memory_max="64M", cpu_quota="50%")
    assert bundle.run() == ""
    assert bundle.property("ControlGroup") == PLACE
    assert bundle.property("TasksMax") == "77"
    assert bundle.property("MemoryMax") == str(64 << 20)
    assert bundle.property("CPUQuotaPerSecUSec") == "500ms"


def test_without_the_hook_its_annotations_mean_nothing(bundle: Bundle) -> None:
    bundle.limit(tasks_max="77")
    bundle.change(lambda config: config.pop("hooks"))
    assert bundle.run() == ""
    assert bundle.property("TasksMax") != "77"


def test_a_container_elsewhere_is_refused_and_leaves_nothing(bundle: Bundle) -> None:
    bundle.change(lambda config: config["linux"].update(cgroupsPath=f"system.slice:runc:{NAME}"))
    refusal = bundle.run()
    assert f"it is not in {SLICE}: its cgroup is /system.slice/{SCOPE}" in refusal
    assert f"must be below /torpor.slice/{SLICE}" in refusal
    assert f"{SLICE}:runc:{NAME}" in refusal
    assert bundle.is_gone()


def test_a_path_that_only_looks_like_the_slice_is_refused(bundle: Bundle) -> None:
    bundle.change(lambda config: config["linux"].update(cgroupsPath=f"/{SLICE}/{NAME}"))
    run = ("runc", "run", "--detach", "--bundle", BUNDLE, NAME)
    with pytest.raises(CommandFailed, match=f"its cgroup is /{SLICE}/{NAME}"):
        bundle.machine.run(*run)


def test_limits_without_a_unit_to_hold_them_are_refused(bundle: Bundle) -> None:
    place = f"/torpor.slice/{SLICE}/{NAME}"
    bundle.limit(tasks_max="77")
    bundle.change(lambda config: config["linux"].update(cgroupsPath=place))
    run = ("runc", "run", "--detach", "--bundle", BUNDLE, NAME)
    with pytest.raises(CommandFailed, match=f"its limits have no unit .* {place}"):
        bundle.machine.run(*run)


@pytest.mark.parametrize(
    ("limit", "refusal"),
    [
        ({"tasks_maxx": "5"}, "Did you mean 'tasks-max'"),
        ({"memory_max": "1Q"}, "annotation io.torpor.resources.memory-max: memory-max: '1Q'"),
    ],
)
def test_a_wrong_limit_is_refused(bundle: Bundle, limit: dict[str, str], refusal: str) -> None:
    bundle.limit(**limit)
    assert refusal in bundle.run()
    assert bundle.is_gone()


def test_systemd_takes_every_kind_of_limit_that_it_can_change(bundle: Bundle) -> None:
    bundle.limit(
        memory_min="1M",
        memory_low="2M",
        memory_high="50%",
        memory_max="1G",
        memory_swap_max="0",
        memory_zswap_max="0",
        cpu_weight="idle",
        cpu_quota="12.5%",
        allowed_cpus="0,1",
        allowed_memory_nodes="0",
        tasks_max="10%",
        io_weight="50",
        io_device_weight="/dev/null 20",
        io_read_bandwidth_max="/dev/null 1M, /dev/zero 2K",
        io_write_iops_max="/dev/null infinity",
        ip_address_allow="localhost, 10.0.0.1",
        ip_address_deny="any",
    )
    assert bundle.run() == ""
    assert bundle.property("MemorySwapMax") == "0"
    assert bundle.property("CPUQuotaPerSecUSec") == "125ms"
    assert "/dev/zero 2000" in bundle.property("IOReadBandwidthMax")
    assert "10.0.0.1" in bundle.property("IPAddressAllow")


def test_root_of_a_user_namespace_makes_cgroups_below_its_own(bundle: Bundle) -> None:
    bundle.map_root()
    assert bundle.run() == ""
    assert bundle.execute("mkdir", "/sys/fs/cgroup/inner") == 0
    assert bundle.owner(PLACE) == bundle.owner(f"{PLACE}/cgroup.procs") == f"{HOST_ID}:{HOST_ID}"
    assert bundle.owner(f"/torpor.slice/{SLICE}") == "0:0"
    assert bundle.owner(f"{PLACE}/cgroup.freeze") == "0:0"
    assert "without Delegate" not in bundle.machine.run("journalctl", "-b", "-t", "torpor").stdout


def test_without_the_hook_it_cannot(bundle: Bundle) -> None:
    bundle.map_root()
    bundle.machine.run("torpor", "hooks", "remove", BUNDLE)
    assert bundle.run() == ""
    assert bundle.execute("mkdir", "/sys/fs/cgroup/inner") != 0


def test_a_container_without_a_user_namespace_owns_nothing(bundle: Bundle) -> None:
    assert bundle.run() == ""
    assert bundle.owner(PLACE) == "0:0"


def test_a_restored_container_has_its_limits_on_its_new_scope(bundle: Bundle) -> None:
    bundle.limit(tasks_max="77")
    assert bundle.run() == ""
    first = bundle.property("InvocationID")
    assert bundle.runc("checkpoint", *IMAGE, NAME) == ""
    restore = ("restore", "--detach", *IMAGE, "--bundle", BUNDLE, NAME)
    assert bundle.runc(*restore) == ""
    assert bundle.property("InvocationID") != first
    assert bundle.property("TasksMax") == "77"
    assert bundle.execute("sleep", "0") == 0


def test_a_restored_root_of_a_user_namespace_owns_its_new_cgroup(bundle: Bundle) -> None:
    bundle.map_root()
    assert bundle.run() == ""
    assert bundle.runc("checkpoint", *IMAGE, NAME) == ""
    bundle.machine.run("chmod", "-R", "a+rX", f"{BUNDLE}/image")  # for CRIU as that root
    restore = ("restore", "--detach", *IMAGE, "--bundle", BUNDLE, NAME)
    assert bundle.runc(*restore) == ""
    assert bundle.owner(PLACE) == f"{HOST_ID}:{HOST_ID}"


def test_a_restore_elsewhere_is_refused(bundle: Bundle) -> None:
    assert bundle.run() == ""
    assert bundle.runc("checkpoint", *IMAGE, NAME) == ""
    bundle.change(lambda config: config["linux"].update(cgroupsPath=f"system.slice:runc:{NAME}"))
    restore = ("restore", "--detach", *IMAGE, "--bundle", BUNDLE, NAME)
    assert f"it is not in {SLICE}" in bundle.runc(*restore)
    assert bundle.is_gone()

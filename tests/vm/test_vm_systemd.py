"""systemd in a container, with what a kernel of its own gives it: other users, controllers."""

import guest
from containers import COUNTER, Container
from cycle import INIT, enter, idle, running, settled, woke_s

from .vm import Vm

LIMITED = "/sys/fs/cgroup/system.slice/limited.service"
SEEN = (
    "cd /sys/fs/cgroup; cat cgroup.subtree_control system.slice/cgroup.subtree_control "
    f"{LIMITED}/memory.max {LIMITED}/pids.max {LIMITED}/cpu.max"
)
WATCHED = "systemctl show -P MainPID limited systemd-journald dbus systemd-logind cron"
# Longer than it takes to fall asleep here; what is left of it goes on after the wake.
ALARM = "rm -f /root/rang; systemd-run -q --on-active=25 sh -c 'date +%s >/root/rang'"
RANG = "timeout 120 sh -c 'until [ -s /root/rang ]; do sleep 0.5; done'; cat /root/rang"


def test_a_systemd_with_all_its_users_keeps_its_controllers_and_limits(vm: Vm) -> None:
    with running(
        vm, "box", image=guest.PLACE, command=INIT, resources={"memory-max": "512M"}
    ) as box:
        assert settled(box) == "running"
        vm.run("systemctl", "enable", box.unit)
        limits = "-p MemoryMax=64M -p TasksMax=20 -p CPUQuota=50%"
        enter(box, f"systemd-run -q --unit=limited {limits} sh -c '{COUNTER}'")
        units, before = enter(box, WATCHED), enter(box, SEEN)
        assert before.split()[-4:] == ["67108864", "20", "50000", "100000"]
        box.sleep_and_wake()
        assert as_it_was(box, units, before)
        enter(box, ALARM)
        vm.reboot()
        assert as_it_was(box, units, before)
        assert int(enter(box, RANG)) >= woke_s(box), "it rang before"
        enter(box, "systemctl restart cron")
        # It did not only come back as a number: who exceeds it is killed.
        hungry = "tail /dev/zero"
        killed = f"systemd-run -q --wait --pipe -p MemoryMax=16M -p MemorySwapMax=0 {hungry}"
        assert enter(box, f"{killed}; echo $?").splitlines()[-1] != "0"


def as_it_was(box: Container, units: str, limits: str) -> bool:
    """Whether it woke with all its units and limits, and none of its processes spins."""
    assert box.property("StatusText").startswith("restored"), box.journal()
    assert enter(box, SEEN) == limits
    assert enter(box, WATCHED) == units
    assert settled(box) == "running"
    return any(idle(box) for _ in range(5))

"""systemd in a container, with what a kernel of its own gives it: other users, controllers."""

import guest
from containers import COUNTER
from cycle import INIT, enter, running, settled

from .vm import Vm

LIMITED = "/sys/fs/cgroup/system.slice/limited.service"


def test_a_systemd_with_all_its_users_keeps_its_controllers_and_limits(vm: Vm) -> None:
    with running(
        vm, "box", image=guest.PLACE, command=INIT, resources={"memory-max": "512M"}
    ) as box:
        assert settled(box) == "running"
        limits = "-p MemoryMax=64M -p TasksMax=20 -p CPUQuota=50%"
        enter(box, f"systemd-run -q --unit=limited {limits} sh -c '{COUNTER}'")
        watched = "systemctl show -P MainPID limited systemd-journald dbus systemd-logind cron"
        seen = (
            "cd /sys/fs/cgroup; cat cgroup.subtree_control system.slice/cgroup.subtree_control "
            f"{LIMITED}/memory.max {LIMITED}/pids.max {LIMITED}/cpu.max"
        )
        units, before = enter(box, watched), enter(box, seen)
        assert before.split()[-4:] == ["67108864", "20", "50000", "100000"]
        box.stop()
        assert box.state() == "READY", box.journal()
        box.start()
        assert box.property("StatusText").startswith("restored"), box.journal()
        assert enter(box, seen) == before
        assert enter(box, watched) == units
        assert settled(box) == "running"
        enter(box, "systemctl restart cron")
        # It did not only come back as a number: who exceeds it is killed.
        hungry = "tail /dev/zero"
        killed = f"systemd-run -q --wait --pipe -p MemoryMax=16M -p MemorySwapMax=0 {hungry}"
        assert enter(box, f"{killed}; echo $?").splitlines()[-1] != "0"

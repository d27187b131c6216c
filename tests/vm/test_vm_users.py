"""A program of another user, without a user namespace: CRIU needs CAP_SYS_RESOURCE for it."""

import re

from containers import COUNTER, make_busybox, without_gap
from cycle import running

from .vm import Vm


def test_a_program_of_another_user_counts_on_over_a_reboot(vm: Vm) -> None:
    rootfs = make_busybox(vm)
    command = ["/bin/sh", "-c", COUNTER]
    limits = {"memory-max": "64M", "tasks-max": 20}
    with running(
        vm, "other", rootfs=rootfs, command=command, user="1000:1000", resources=limits
    ) as container:
        vm.run("systemctl", "enable", container.unit)
        container.stop()
        assert container.state() == "READY", container.journal()
        container.start()
        vm.reboot()
        assert container.property("StatusText").startswith("restored"), container.journal()
        status = vm.read(f"/proc/{container.property('MainPID')}/status")
        assert re.search(r"^Uid:\t1000\t", status, re.MULTILINE)
        numbers = container.numbers()
        assert len(numbers) > 3
        assert without_gap(numbers)
    vm.run("rm", "-rf", rootfs)

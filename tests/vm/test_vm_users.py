"""Programs of other users without a user namespace: CRIU needs CAP_SYS_RESOURCE for them."""

import pytest

from containers import BUSYBOX, COUNTER, make_busybox, without_gap
from cycle import cycle, running, within

from .vm import Vm

SHOW = "grep -hE '^(Name|Uid|Gid|Groups|Cap[A-Z].*):' /proc/[0-9]*/status | grep -A6 'Name:.sh'"
# $1: a uid. Debian's busybox has no setpriv that could change it.
OTHER = 'start-stop-daemon -S -c "$1:$1" -x /bin/sh -- -c "while :; do sleep 0.1; done" &'
OTHERS = "".join(f"set {uid}; {OTHER} " for uid in (1001, 1002)) + COUNTER


@pytest.fixture(scope="module", autouse=True)
def rootfs(vm: Vm) -> None:
    make_busybox(vm)
    vm.run("ln", "-sf", "busybox", f"{BUSYBOX}/bin/start-stop-daemon")


@pytest.mark.parametrize(
    ("keys", "uids"),
    [
        ({"user": "1000:1000", "groups": ["7"], "command": COUNTER}, {"1000"}),
        (
            {"capabilities": {"add": ["setuid", "setgid"]}, "command": OTHERS},
            {"0", "1001", "1002"},
        ),
    ],
    ids=["the-program", "its-children"],
)
def test_of_another_user_sleep_and_wake(vm: Vm, keys: dict[str, object], uids: set[str]) -> None:
    command = ["/bin/sh", "-c", keys["command"]]
    with running(vm, "users", rootfs=BUSYBOX, **{**keys, "command": command}) as container:
        before = within(container, SHOW)
        lines = [line.split() for line in before.splitlines()]
        assert {line[1] for line in lines if line[0] == "Uid:"} == uids
        cycle(container)
        assert within(container, SHOW) == before
        assert without_gap(container.numbers())

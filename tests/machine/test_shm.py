"""/dev/shm is in memory, and sleeps with the rest of it."""

import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, Config, Container, make_bundle, make_busybox, without_gap
from cycle import cycle, left, running, within
from machine import Machine

# Counts in an object that has no name any more, and notes the count in one that has.
SHARER = """
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int *make(const char *name) {
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
    if (fd < 0 || ftruncate(fd, 4096)) return 0;
    return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

int main(void) {
    volatile int *unnamed = make("/unnamed"), *named = make("/named");
    if (!unnamed || !named || shm_unlink("/unnamed")) return 1;
    for (;;) {
        if (*named != *unnamed) return 2;
        printf("count %d\\n", ++*unnamed);
        *named = *unnamed;
        fflush(stdout);
        usleep(100000);
    }
}
"""
CONTENT = """
cd /dev/shm && mkdir -m 2750 box && echo text >box/file && chown 7:8 box/file && ln -s file box/link
mkfifo pipe && dd if=/dev/urandom of=holes bs=1k count=1 seek=100 2>/dev/null && touch -d @9 holes
"""
LISTED = """
cd /dev/shm && find . | sort | xargs /bin/busybox stat -c '%n %a %u:%g %s %Y' && cat box/file &&
sha1sum holes && readlink box/link
"""
MOUNTED = "stat -c '%a %u:%g' /dev/shm && grep ' /dev/shm ' /proc/self/mountinfo"


@pytest.fixture(scope="module", autouse=True)
def busybox(machine: Machine) -> str:
    return make_busybox(machine)


@pytest.fixture
def sharer(machine: Machine) -> Iterator[Container]:
    machine.write("/srv/sharer.c", SHARER)
    machine.run("gcc", "-O2", "-static", "-o", f"{BUSYBOX}/bin/sharer", "/srv/sharer.c")
    with running(machine, "sharer", rootfs=BUSYBOX, command=["/bin/sharer"]) as container:
        yield container


def test_mapped_objects_with_and_without_a_name_survive_sleeps_and_a_reboot(
    sharer: Container,
) -> None:
    for _ in range(2):
        time.sleep(0.2)
        cycle(sharer)
    sharer.stop()
    sharer.machine.reboot()
    sharer.start()
    time.sleep(0.5)
    assert len(sharer.numbers()) > 5
    assert without_gap(sharer.numbers())
    assert sharer.property("ActiveState") == "active"


def test_files_keep_content_owner_mode_and_time(machine: Machine) -> None:
    with running(machine, "shm-files", rootfs=BUSYBOX) as container:
        within(container, CONTENT)
        before = within(container, LISTED)
        cycle(container)
        cycle(container)
        assert within(container, LISTED) == before
        assert "./holes 644 0:0 103424 9\n" in before


def test_it_has_the_size_asked_for_and_safe_options_also_after_a_sleep(machine: Machine) -> None:
    with running(machine, "shm-size", rootfs=BUSYBOX, shm_size="3M") as container:
        for _ in range(2):
            said = within(container, MOUNTED)
            assert said.startswith("1777 0:0\n")
            assert " rw,nosuid,nodev,noexec," in said
            assert "size=3072k" in said
            cycle(container)
        full = within(container, "dd if=/dev/zero of=/dev/shm/x bs=1M count=4 2>&1", check=False)
        assert "No space left" in full


def test_what_is_large_is_not_lost(machine: Machine) -> None:
    fill = "dd if=/dev/urandom of=/dev/shm/large bs=1M count=200 2>/dev/null"
    with running(machine, "shm-large", rootfs=BUSYBOX, shm_size="256M") as container:
        within(container, fill)
        before = within(container, "sha1sum /dev/shm/large")
        cycle(container)
        assert within(container, "sha1sum /dev/shm/large") == before


def test_the_root_of_a_user_namespace_owns_it(machine: Machine) -> None:
    bundle = make_bundle(machine, "/srv/shm-mapped", BUSYBOX)
    with running(machine, "shm-mapped", bundle=bundle, idmap="0:100000:65536") as container:
        within(container, CONTENT)
        before = within(container, LISTED)
        for _ in range(2):
            assert within(container, MOUNTED).startswith("1777 0:0\n")
            cycle(container)
        assert within(container, LISTED) == before
    machine.run("rm", "-r", bundle)


def test_that_of_a_bundle_is_replaced_by_one_of_its_size(machine: Machine) -> None:
    def resize(config: Config) -> None:
        [mount] = [one for one in config["mounts"] if one["destination"] == "/dev/shm"]
        mount["options"] = ["nosuid", "size=2m"]

    bundle = make_bundle(machine, "/srv/shm-bundle", BUSYBOX, resize)
    with running(machine, "shm-bundle", bundle=bundle) as container:
        within(container, "echo kept >/dev/shm/file")
        cycle(container)
        assert within(container, "cat /dev/shm/file") == "kept\n"
        assert "size=2048k" in within(container, MOUNTED)
        assert "/run/torpor/shm-bundle/shm" in machine.run("findmnt", "-rno", "TARGET").stdout
    machine.run("rm", "-r", bundle)


def test_a_start_that_fails_leaves_nothing_mounted(machine: Machine) -> None:
    container = Container(machine, "shm-failed")
    container.define(rootfs=BUSYBOX, command=["/bin/does-not-exist"])
    try:
        assert container.systemctl("start", check=False) != 0
        assert "/bin/does-not-exist" in container.journal()
        assert left(container) == ""
    finally:
        container.remove()

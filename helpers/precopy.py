"""Rounds of copying a running container's memory, for a dump that is to stand still but shortly."""

import os

from torpor import ahead, checkpoint, events, images, payload, process, record, state
from torpor.archive import IMAGES, Facts, Writer
from torpor.cgroup import Cgroup
from torpor.checkpoint import Dump
from torpor.container import Container
from torpor.errors import ContainerLostError, TorporError
from torpor.images import Generation
from torpor.patience import STOPPING, Patience
from torpor.systemd import Unit

MOST = 16
_TRACKING = ("criu", "check", "--feature", "mem_dirty_track")


def require(rounds: int) -> None:
    """That as many can be made: the kernel must track what is written. Raises TorporError."""
    if not 0 < rounds <= MOST:
        raise TorporError(f"{rounds} rounds are none, or too many", f"1 to {MOST}", exit_code=2)
    if process.output([*_TRACKING])[0]:
        raise TorporError(
            "this kernel does not track which memory is written (CONFIG_MEM_SOFT_DIRTY)",
            "leave out --pre-dump",
        )


class Rounds:
    """Those of one container, under its lock while one is made."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.clear()
        record.make_directory(container.ahead_dir)

    def clear(self) -> None:
        """Forget what no dump has taken."""
        images.remove(self._container.ahead_dir)
        if os.path.lexists(self._container.ahead_path):
            os.unlink(self._container.ahead_path)

    def make(self) -> "Round":
        """Copy what was written since the last. Raises TorporError, ContainerLostError, OSError."""
        container = self._container
        cgroup = payload.cgroup_of(container, Unit(container).cgroup)
        if state.read(container).name not in (state.RUNNING, state.CONSUMED) or not cgroup.pids():
            raise TorporError(f"{container.name} does not run any more")
        checkpoint.preflight(container, cgroup)
        number = len(images.numbers(container.ahead_dir)) + 1
        made = Round(container, number)
        try:
            made.dump(cgroup)
        except ContainerLostError as error:
            cgroup.kill(payload.KILL_TIMEOUT_S)
            state.write(container, state.read(container).become(state.NONE, error.message))
            events.note(events.LOST, container, error.message)
            raise
        return made

    def offer(self) -> None:
        """Let the stop that follows begin with them."""
        ahead.offer(self._container, Unit(self._container).main_pid)


class Round(Generation):
    """A directory of images with nothing but memory."""

    __slots__ = ("_container",)

    def __init__(self, container: Container, number: int) -> None:
        super().__init__(container, number, f"{container.ahead_dir}/{number}")
        self._container = container

    @property
    def images(self) -> str:
        return self.path

    @property
    def work(self) -> str:
        return f"{self._container.run_dir}/ahead-work"

    def dump(self, cgroup: Cgroup) -> None:
        os.mkdir(self.path, 0o700)
        record.make_directory(self.work)
        parent = f"../{self.number - 1}" if self.number > 1 else ""
        patience = Patience(self._container, STOPPING)
        dump = Dump(self._container, self, cgroup, lambda: None, patience, parent=parent)
        try:
            dump.run(lambda: None, only_memory=True)
        finally:
            images.remove(self.work)

    def write(self, fd: int) -> None:
        """Send it as an archive. Raises TorporError."""
        facts: Facts = {"name": self._container.name, "round": str(self.number)}
        with Writer(fd, facts, lambda _: None) as writer:
            writer.add_directory(IMAGES)
            for name in sorted(os.listdir(self.path)):
                if name != images.PARENT:
                    self._add(writer, name)
            writer.finish(None)

    def _add(self, writer: Writer, name: str) -> None:
        reader = images.FileReader(f"{self.path}/{name}")
        try:
            size = os.stat(f"{self.path}/{name}").st_size
            writer.add_stream(f"{IMAGES}/{name}", size, reader.read)
        finally:
            reader.close()

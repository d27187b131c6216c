"""Those who start, checkpoint and restore the same program: torpor and its peers."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from watch import BenchError, processes_in, pss_kib, run, until_gone, until_running

ROOTFS = "/srv/bench/rootfs"
IMAGE = "localhost/bench:1"
PLACE = Path("/srv/bench")
UNITS = Path("/run/systemd/system")
_RESIDENT = "/bin/resident"


def command(name: str, mib: int, tick_ms: int) -> list[str]:
    return [_RESIDENT, name, str(mib), str(tick_ms)]


class Contestant:
    """One container of one kind. What is measured: start(), sleep() and wake()."""

    kind = ""

    def __init__(self, name: str, mib: int, tick_ms: int = 1) -> None:
        self.name = name[:15]  # as the kernel keeps it
        self.mib = mib
        self.command = command(self.name, mib, tick_ms)

    def make(self) -> None:
        """What is there before it is started the first time."""

    def start(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """End it without a checkpoint."""
        raise NotImplementedError

    def sleep(self) -> None:
        raise NotImplementedError

    def wake(self) -> None:
        raise NotImplementedError

    def started(self) -> None:
        self.start()
        until_running(self.name)

    def woken(self) -> None:
        self.wake()
        until_running(self.name)

    def clear(self) -> None:
        """Between a sleep and a wake, not measured: what is left of the sleep."""

    def images(self) -> Path:
        raise NotImplementedError

    def forget_pages(self) -> None:
        """Leave no page of its images in memory."""
        for path in self.images().rglob("*"):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def remove(self) -> None:
        self.end()


class Torpor(Contestant):
    kind = "torpor"

    @property
    def unit(self) -> str:
        return f"torpor@{self.name}.service"

    def make(self) -> None:
        definition = {"rootfs": ROOTFS, "read-only": True, "command": self.command}
        Path(f"/etc/torpor/{self.name}.yaml").write_text(json.dumps(definition), encoding="utf-8")
        run(["systemctl", "daemon-reload"])
        self.started()  # which renders its configuration
        self.end()

    def start(self) -> None:
        run(["systemctl", "start", self.unit])

    def end(self) -> None:
        run(["torpor", "stop", "--fresh", self.name], check=False)

    def sleep(self) -> None:
        run(["systemctl", "stop", self.unit])

    wake = start

    def resident_kib(self) -> int:
        """What is in memory of it beside the container's own processes."""
        return sum(map(pss_kib, processes_in(f"{self.unit}/supervisor")))

    def images(self) -> Path:
        return max(
            Path(f"/var/lib/torpor/{self.name}/generations").iterdir(), key=lambda p: int(p.name)
        )

    def remove(self) -> None:
        self.end()
        shutil.rmtree(f"/var/lib/torpor/{self.name}", ignore_errors=True)
        Path(f"/etc/torpor/{self.name}.yaml").unlink()


def bundle(name: str, argv: list[str]) -> Path:
    """A bundle as ``runc spec`` makes it, for a program of ours."""
    place = PLACE / f"bundle-{name}"
    place.mkdir(parents=True, exist_ok=True)
    config_path = place / "config.json"
    if not config_path.exists():
        run(["runc", "spec", "--bundle", str(place)])
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["process"].update(terminal=False, args=argv)
    config["root"] = {"path": ROOTFS, "readonly": True}
    config["linux"]["cgroupsPath"] = f"system.slice:bench:{name}"
    config_path.write_text(json.dumps(config), encoding="utf-8")
    return place


class Runc(Contestant):
    """Bare runc, whose checkpoint is not durable."""

    kind = "runc"

    def make(self) -> None:
        self.bundle = bundle(self.name, self.command)
        self.place = PLACE / f"images-{self.name}"

    def start(self) -> None:
        self._runc("run", "--detach", "--bundle", str(self.bundle), self.name)

    def end(self) -> None:
        run(["runc", "delete", "--force", self.name], check=False)

    def sleep(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self._runc("checkpoint", *self._paths(), self.name)

    def wake(self) -> None:
        self._runc("restore", "--detach", *self._paths(), "--bundle", str(self.bundle), self.name)

    def _runc(self, *words: str) -> None:
        # Detached, the container keeps what it was given as standard output.
        argv = ["runc", "--systemd-cgroup", "--log", str(PLACE / "runc.log"), *words]
        null = subprocess.DEVNULL
        if subprocess.run(argv, stdin=null, stdout=null, stderr=null, check=False).returncode:
            log = (PLACE / "runc.log").read_text(encoding="utf-8")
            raise BenchError(f"{' '.join(argv)}: {log[-1000:]}")

    def _paths(self) -> list[str]:
        images, work = self.place / "images", self.place / "work"
        return ["--image-path", str(images), "--work-path", str(work)]

    def images(self) -> Path:
        return self.place / "images"

    def freezing_ms(self) -> float:
        """How long CRIU took to freeze it in its last dump."""
        import pycriu

        with (self.place / "work/stats-dump").open("rb") as file:
            entry = pycriu.images.load(file)["entries"][0]["dump"]
        return float(entry["freezing_time"]) / 1e3

    def remove(self) -> None:
        self.end()
        for place in (self.place, self.bundle):
            shutil.rmtree(place, ignore_errors=True)


class SyncedRunc(Runc):
    """The same, and each image file synced: as durable as ours."""

    kind = "runc, fsync"

    def sleep(self) -> None:
        super().sleep()
        for path in [*self.images().iterdir(), self.images()]:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


class RuncUnit(Runc):
    """runc as the main process of a unit, for starts and wakes by systemctl."""

    kind = "unit with runc"

    def make(self) -> None:
        super().make()
        paths = " ".join(self._paths())
        self._unit(f"{self.name}-run", f"run --bundle {self.bundle}")
        self._unit(f"{self.name}-restore", f"restore {paths} --bundle {self.bundle}")
        run(["systemctl", "daemon-reload"])

    def _unit(self, unit: str, words: str) -> None:
        (UNITS / f"{unit}.service").write_text(
            f"[Service]\nType=exec\nExecStart=/usr/bin/runc --systemd-cgroup {words} {self.name}\n"
            "KillMode=mixed\n",
            encoding="utf-8",
        )

    def start(self) -> None:
        run(["systemctl", "start", f"{self.name}-run"])

    def wake(self) -> None:
        run(["systemctl", "start", f"{self.name}-restore"])

    def sleep(self) -> None:
        super().sleep()
        until_gone(self.name)

    def clear(self) -> None:
        units = [f"{self.name}-run", f"{self.name}-restore"]
        run(["systemctl", "stop", *units], check=False)
        run(["systemctl", "reset-failed", *units], check=False)

    def end(self) -> None:
        run(["runc", "kill", self.name, "KILL"], check=False)
        until_gone(self.name)
        self.clear()
        super().end()


class Podman(Contestant):
    kind = "podman"
    runtime = "runc"

    def make(self) -> None:
        self._podman("rm", "--force", "--time=0", "--ignore", self.name)
        options = ["--network=none", "--log-driver=none", "--read-only", "--stop-timeout=0"]
        self._podman("create", "--name", self.name, *options, IMAGE, *self.command)

    def start(self) -> None:
        self._podman("start", self.name)

    def end(self) -> None:
        self._podman("stop", "--time=0", self.name)

    def sleep(self) -> None:
        self._podman("container", "checkpoint", self.name)

    def wake(self) -> None:
        self._podman("container", "restore", self.name)

    def _podman(self, *words: str) -> None:
        run(["podman", "--runtime", f"/usr/bin/{self.runtime}", *words])

    def images(self) -> Path:
        words = ["podman", "inspect", "--format", "{{.StaticDir}}", self.name]
        return Path(run(words).strip()) / "checkpoint"

    def resident_kib(self) -> int:
        """What its monitor takes."""
        words = ["podman", "inspect", "--format", "{{.State.ConmonPid}}", self.name]
        return pss_kib(int(run(words)))

    def remove(self) -> None:
        self._podman("rm", "--force", "--time=0", self.name)


class PodmanCrun(Podman):
    kind = "podman, crun"
    runtime = "crun"


class Quadlet(Contestant):
    """podman's unit generator: starts alone, as it never sleeps."""

    kind = "quadlet"

    def make(self) -> None:
        place = Path("/etc/containers/systemd")
        place.mkdir(parents=True, exist_ok=True)
        lines = [
            "[Container]",
            f"Image={IMAGE}",
            f"Exec={' '.join(self.command)}",
            *("Network=none", "ReadOnly=true", "Pull=never", "StopTimeout=0", "LogDriver=none"),
        ]
        (place / f"{self.name}.container").write_text("\n".join(lines) + "\n", encoding="utf-8")
        run(["systemctl", "daemon-reload"])
        self.started()
        self.end()

    def start(self) -> None:
        run(["systemctl", "start", self.name])

    def end(self) -> None:
        run(["systemctl", "stop", self.name], check=False)


def settle(contestant: Contestant) -> None:
    """Between two measurements: nothing of the last one goes on, such as the removal of images."""
    run(["sync", "--file-system", str(PLACE)])
    time.sleep(0.1 + contestant.mib / 2048)

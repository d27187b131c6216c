"""What systemd must find mounted, mounted in a container that another engine has made.

What is mounted already is the user's or the engine's, and stays. Everything is found from the
container's root file system, the working directory by then (`unstarted`), without following a link
out of it, and mounted on what was found there: a path that changes meanwhile does not matter.
"""

import errno
import os
import stat

from torpor import detached, inroot, systemd_mode
from torpor.copyup import CopyUp
from torpor.errors import TorporError
from torpor.systemd_cgroup import SystemdCgroup
from torpor.umask import PUBLIC, Umask
from torpor.unstarted import Unstarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from torpor.oci_config import Config

_ROOT = "."
_RUN = "/run"
_CGROUP_KINDS = ("cgroup", "cgroup2")
_PARAMETERS = ("mode", "size")
_CGROUP_V1_TMPFS = ("nosuid", "nodev", "noexec", "mode=755", "size=64k")
_MACHINE_ID_IN_RUN = "/run/machine-id"  # where systemd puts it if it may mount
_MACHINE_ID_LIMIT_BYTES = 128
_MACHINE_ID_OPTIONS = ("ro", "nosuid", "nodev", "noexec")
_UNSET = ("", "uninitialized")  # machine-id(5)
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class SystemdMounts:
    """One container's. All methods raise TorporError and OSError."""

    def __init__(self, container: Unstarted, config: "Config", root: str) -> None:
        """root is the path of the root file system on the host."""
        self._container = container
        self._configured = {
            os.path.normpath(mount["destination"]): mount for mount in config.get("mounts") or ()
        }
        self._label = str((config.get("linux") or {}).get("mountLabel") or "")
        # A runtime makes it so only after this stage.
        self._read_only = bool((config.get("root") or {}).get("readonly")) or _is_read_only(root)
        self._run_is_memory = self._configured.get(_RUN, {}).get("type") == "tmpfs"

    def mount_tmpfs(self) -> None:
        """Those of `systemd_mode` that are missing, with what the image has there."""
        for_state = systemd_mode.TMPFS_READ_ONLY if self._read_only else {}
        for path, options in {**systemd_mode.TMPFS, **for_state}.items():
            try:
                place = self._place(path)
            except TorporError as error:
                if path not in systemd_mode.NEEDED and _says_read_only(error.__cause__):
                    continue  # systemd does without: it keeps its journal in /run
                raise
            if not (
                detached.is_mounted(place)
                or (path not in systemd_mode.NEEDED and _is_volume(place))
            ):
                self._mount_tmpfs(path, place, options)
            os.close(place)

    def mount_cgroup(self, cgroup: SystemdCgroup) -> None:
        """The container's own cgroup, writable, where the runtime mounts none or a read-only one.

        What the user mounts there stays as it is, and is the user's affair.
        """
        asked = self._configured.get(systemd_mode.CGROUP_PLACE, {}).get("type")
        if asked not in (None, *_CGROUP_KINDS):
            return
        place = self._place(systemd_mode.CGROUP_PLACE)
        if not cgroup.is_unified:
            if not detached.is_mounted(place):
                tmpfs = self._new_tmpfs(_CGROUP_V1_TMPFS)
                with Umask(PUBLIC):
                    os.mkdir("systemd", dir_fd=tmpfs)
                self._attach(tmpfs, place, systemd_mode.CGROUP_PLACE)
            os.close(place)
            place = self._place(systemd_mode.CGROUP_V1_PLACE)
        if not self._is_writable_mount(place):
            self._attach(cgroup.mount(), place, systemd_mode.CGROUP_PLACE)
        os.close(place)

    def may_need_machine_id(self) -> bool:
        """Whether systemd may be unable to write one."""
        return self._read_only or os.path.dirname(systemd_mode.MACHINE_ID_PLACE) in self._configured

    def give_machine_id(self, machine_id: str) -> None:
        """Let systemd find this one where there is none, and systemd could not write its own.

        It may be empty where may_need_machine_id() is false.
        """
        path = systemd_mode.MACHINE_ID_PLACE
        text = _machine_id()
        if not machine_id or systemd_mode.is_machine_id(text):
            return
        directory = inroot.open_handle(_ROOT, os.path.dirname(path))
        is_read_only = self._read_only or _is_read_only(directory)
        os.close(directory)
        if not is_read_only:
            return
        if text not in _UNSET:
            raise TorporError(
                f"{path} in the container holds no machine-id(5)", "Empty that file in the image."
            )
        place = self._open_machine_id()
        if not detached.is_mounted(place):
            file = self._file_in_run(_MACHINE_ID_IN_RUN, f"{machine_id}\n")
            bound = detached.copy(file)
            detached.restrict(bound, detached.flags(_MACHINE_ID_OPTIONS))
            self._attach(bound, place, path)
            os.close(file)
        os.close(place)

    def _mount_tmpfs(self, path: str, place: int, options: tuple[str, ...]) -> None:
        tmpfs = self._new_tmpfs(options)
        image = detached.copy(place)
        CopyUp(path).run(image, tmpfs)
        os.close(image)
        if path == _RUN:
            self._run_is_memory = True
            for file, text in systemd_mode.FILES.items():
                inroot.make_file(_path_of(tmpfs), file.removeprefix(_RUN), text.encode())
        below = self._mounts_below(place)
        self._attach(tmpfs, place, path)
        for relative, mount in below:
            again = inroot.open_handle(_path_of(tmpfs), relative)
            # Not a copy: crun makes its mounts read-only later, by descriptors of its own.
            detached.attach(mount, again)
            os.close(again)
            os.close(mount)
        os.close(tmpfs)

    def _new_tmpfs(self, options: tuple[str, ...]) -> int:
        parameters = tmpfs_parameters(options, self._label)
        return detached.new("tmpfs", detached.flags(options), **parameters)

    def _mounts_below(self, place: int) -> list[tuple[str, int]]:
        """The mounts that one at place would hide, open: each with its path from there."""
        top = os.readlink(_path_of(place))
        number = str(detached.mount_id(place))
        paths = [fields[4] for fields in self._container.mounts() if fields[1] == number]
        hidden = dict.fromkeys(path for path in paths if path.startswith(f"{top}/"))
        relatives = [path[len(top) + 1 :] for path in hidden]
        return [(path, inroot.open_handle(_path_of(place), path)) for path in relatives]

    def _attach(self, mount: int, place: int, path: str) -> None:
        """Mount it there, unless that would be seen outside of the container too."""
        number = str(detached.mount_id(place))
        fields = next(fields for fields in self._container.mounts() if fields[0] == number)
        if any(field.startswith("shared:") for field in fields[6 : fields.index("-")]):
            raise TorporError(
                f"{path} in the container is in a shared mount: "
                "what is mounted there would stay on the host",
                "Leave linux.rootfsPropagation out, or let the engine mount what systemd needs.",
            )
        detached.attach(mount, place)

    def _is_writable_mount(self, place: int) -> bool:
        """crun makes a mount read-only after this stage only: what is asked for counts too."""
        if not detached.is_mounted(place) or _is_read_only(place):
            return False
        configured = self._configured.get(systemd_mode.CGROUP_PLACE, {})
        return "ro" not in (configured.get("options") or ())

    def _place(self, path: str) -> int:
        """The directory at path, open; it is made where it is missing, as a runtime does.

        A link there is followed to a mount only: what a tmpfs would hide is to be where it is said
        to be.
        """
        try:
            inroot.make_directories(_ROOT, path)
            handle = inroot.open_handle(_ROOT, path)
            if not detached.is_mounted(handle):
                os.close(handle)
                handle = _open_itself(path)
        except OSError as error:
            raise _refusal(path, os.strerror(error.errno or 0), "Make it a directory.") from error
        mode = os.fstat(handle).st_mode
        if not stat.S_ISDIR(mode):
            what = "a link" if stat.S_ISLNK(mode) else "not a directory"
            raise _refusal(path, f"it is {what}", "Make it a directory.")
        return handle

    def _open_machine_id(self) -> int:
        path = systemd_mode.MACHINE_ID_PLACE
        try:
            inroot.make_file(_ROOT, path, b"")  # a place to mount on, as a runtime makes it
            return inroot.open_handle(_ROOT, path)
        except OSError as error:
            problem = f"it is missing, and cannot be made: {os.strerror(error.errno or 0)}"
            raise _refusal(path, problem, "Make it a file, empty or with an id.") from error

    def _file_in_run(self, path: str, text: str) -> int:
        """A file that goes with the container, open."""
        if not self._run_is_memory:
            raise TorporError(
                f"{systemd_mode.MACHINE_ID_PLACE} in the container holds no id, "
                "and what is mounted at /run is no place for one: it is not the container's alone",
                "Mount a file with an id there, or no /run.",
            )
        directory, name = os.path.split(path)
        parent = inroot.open_handle(_ROOT, directory)
        try:
            os.unlink(name, dir_fd=parent)  # the image's, copied
        except FileNotFoundError:
            pass
        finally:
            os.close(parent)
        inroot.make_file(_ROOT, path, text.encode())
        return inroot.open_handle(_ROOT, path)


def tmpfs_parameters(options: tuple[str, ...], label: str) -> dict[str, str]:
    """What of the options, in the words of mount(8), is the file system's own, and its label."""
    pairs = (word.partition("=") for word in options)
    parameters = {key: value for key, _, value in pairs if key in _PARAMETERS}
    return parameters | ({"context": label} if label else {})


def _is_read_only(where: "str | int") -> bool:
    """Whether the mount at a path, or that in which a descriptor is open, is read-only."""
    return bool(os.statvfs(where).f_flag & os.ST_RDONLY)


def _is_volume(place: int) -> bool:
    """Whether it lies in something that is mounted above it, but below the root."""
    root = os.open(_ROOT, os.O_PATH | os.O_CLOEXEC)
    try:
        return detached.mount_id(place) != detached.mount_id(root)
    finally:
        os.close(root)


def _says_read_only(cause: BaseException | None) -> bool:
    return isinstance(cause, OSError) and cause.errno == errno.EROFS


def _open_itself(path: str) -> int:
    """What lies at path, a link too: then that is what is open."""
    directory, name = os.path.split(path)
    parent = inroot.open_handle(_ROOT, directory)
    try:
        return os.open(name, _HANDLE, dir_fd=parent)
    finally:
        os.close(parent)


def _machine_id() -> str:
    """What the container has in its file, empty where there is none."""
    path = systemd_mode.MACHINE_ID_PLACE
    try:
        content = inroot.read_in_root(_ROOT, path, _MACHINE_ID_LIMIT_BYTES)
    except FileNotFoundError:
        return ""
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise _refusal(path, problem, "Make it a file, empty or with an id.") from error
    return content.decode("utf-8", "replace").strip()


def _path_of(handle: int) -> str:
    return f"/proc/self/fd/{handle}"


def _refusal(path: str, problem: str, hint: str) -> TorporError:
    return TorporError(f"{path} in the container: {problem}", hint)

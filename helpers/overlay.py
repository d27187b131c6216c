"""The root file system that is a container's own: what it writes over an image, or mapped ids.

https://docs.kernel.org/filesystems/overlayfs.html
"""

import os
import stat
import time

from torpor import atomic_directory, fault, mounts, program, record
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.rootfs import identity as directory_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# index: a hard link of the image stays one file, and Linux refuses an upper layer of another image.
# nfs_export: file handles can be opened, as CRIU does to find what an inotify watch is of and to
# save a file of the image that was deleted while open. redirect_dir: directories of the image can
# be renamed. xino: inode numbers stay when the layers are on two file systems.
_OPTIONS = "index=on,nfs_export=on,metacopy=off,redirect_dir=on,xino=auto"
_LOOK_OPTIONS = "index=off,nfs_export=off,metacopy=off,redirect_dir=follow"
_ORIGIN = "trusted.overlay.origin"
_BUSY_S = 5.0
_RETRY_S = 0.1
_ID_MAPPED = "X-mount.idmap"  # mount(8), util-linux 2.39; older ones take no notice of it
_IDS_HINT = (
    "to map ids the file system must be one like ext4, xfs, btrfs or tmpfs, and util-linux 2.39"
)
_DISK_HINT = "is the disk full, read-only or damaged?"
_PLAIN_HINT = "it must be a directory"


def rootfs_path(container: Container) -> str:
    """Where the container's root file system is mounted while it runs."""
    return f"{container.run_dir}/rootfs"


def storage_path(container: Container) -> str:
    """What the container wrote, as long as it is defined."""
    return f"{container.state_dir}/storage"


def mapping(uids: "Iterable[object]", gids: "Iterable[object]") -> str:
    """Ranges CONTAINER:HOST:SIZE as X-mount.idmap= takes them."""
    return " ".join([*(f"u:{one}" for one in uids), *(f"g:{one}" for one in gids)])


def mount(container: Container, image: str, digest: str = "", ids: str = "") -> list[str]:
    """Mount what the container wrote over image, a directory, at rootfs_path(); repeatable.

    digest identifies the image's content, where there is one; ids is a mapping(), with which the
    image's files belong to the container's ids. Returns warnings. Raises TorporError.
    """
    _unmount_all(container)
    lower = _lower_path(container)
    _bind(image, lower, "ro", ids)
    try:
        fault.point("bound")
        _require_storage(container, image, lower, digest)
        _mount_layers(container, image)
        fault.point("layered")
    except OSError as error:
        raise TorporError(f"{storage_path(container)}: {error.strerror}", _DISK_HINT) from error
    finally:
        mounts.detach(lower)  # the overlay has a copy of this mount
    return _warnings(container, image)


def mount_to_look(container: Container, image: str, ids: str = "") -> None:
    """Mount the same to be read only: in a mount namespace of the caller's own, changing nothing.

    What the container wrote is a lower layer here: Linux writes nothing there, nor to a work
    directory, and a start of the container at this moment finds both free. Raises TorporError.
    """
    lower, path = _lower_path(container), rootfs_path(container)
    _bind(image, lower, "ro", ids)
    record.make_directory(path)
    layers = f"lowerdir={storage_path(container)}/upper:{lower}"
    argv = ["mount", "-t", "overlay", "-o", f"ro,{layers},{_LOOK_OPTIONS}", "overlay", path]
    if reason := program.run(argv, timeout_s=mounts.TIMEOUT_S):
        raise TorporError(
            f"cannot look at what {container.name} wrote over {image}: {reason}",
            "dmesg may say more",
        )


def mount_mapped(container: Container, rootfs: str, ids: str) -> None:
    """Mount a rootfs at rootfs_path(), as its files belong to the container's ids; repeatable.

    Raises TorporError.
    """
    _unmount_all(container)
    _bind(rootfs, rootfs_path(container), "rw", ids)


def unmount(container: Container) -> list[str]:
    """Remove what mount() or mount_mapped() did, however far it came; warnings of what stays."""
    stays = []
    for path in (rootfs_path(container), _lower_path(container)):
        try:
            if not mounts.detach(path):
                stays.append(f"{path} cannot be unmounted; see: findmnt {path}")
                continue
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            stays.append(f"{path} cannot be removed: {error.strerror}")
    return stays


def identity(container: Container, image: str, digest: str = "", storage: str = "") -> str:
    """Identifies the container's files across reboots: the image, and what was written over it.

    storage is another place of what it wrote than storage_path(). Raises OSError; there is nothing
    to identify before the first mount().
    """
    upper = directory_identity(f"{storage or storage_path(container)}/upper")
    return f"{digest or directory_identity(image)}+{upper}"


def rebase(storage: str) -> None:
    """Let storage be used with an image that has the same content in another place.

    Linux knows the files of an image by their inodes. Without these marks it finds them by name.
    That of the root goes last: as long as it is there Linux refuses the pair, so this is repeated.
    """
    if reason := atomic_directory.remove(f"{storage}/work"):
        raise TorporError(f"{storage}/work cannot be removed: {reason}")
    upper = f"{storage}/upper"
    for directory, inner, names in os.walk(upper, topdown=False, onerror=_raise):
        for name in (*inner, *names):  # a link to a directory counts as a directory here
            _forget_origin(f"{directory}/{name}")
    if reason := program.run(["sync", "--file-system", upper], timeout_s=mounts.TIMEOUT_S):
        raise TorporError(f"{upper} cannot be synced: {reason}", _DISK_HINT)
    _forget_origin(upper)


def _lower_path(container: Container) -> str:
    """The image under a name without the characters that mount options cannot hold."""
    return f"{container.run_dir}/image"


def _unmount_all(container: Container) -> None:
    if stays := unmount(container):
        raise TorporError(stays[0], "something of an earlier run uses it: lsof may find it")


def _bind(source: str, target: str, access: str, ids: str) -> None:
    record.make_directory(target)
    options = f"bind,{access}" + (f",{_ID_MAPPED}={ids}" if ids else "")
    argv = ["mount", "--no-canonicalize", "-o", options, "--", source, target]
    reason = program.run(argv, timeout_s=mounts.TIMEOUT_S)
    if not reason and ids and "idmapped" not in mounts.options(target):
        reason = "mount ignores X-mount.idmap"
    if reason:
        _unmount_quietly(target)
        raise TorporError(f"cannot mount {source}: {reason}", _IDS_HINT if ids else _PLAIN_HINT)


def _unmount_quietly(path: str) -> None:
    mounts.detach(path)
    try:
        os.rmdir(path)
    except OSError:
        pass


def _require_storage(container: Container, image: str, lower: str, digest: str) -> None:
    """The writable layer is there, and is of this image. Raises TorporError."""
    storage = storage_path(container)
    now = (digest or directory_identity(image), directory_identity(image))
    if atomic_directory.make(storage, lambda new: _make_storage(new, lower, now)):
        return
    then = _recorded(storage)
    if then == now:
        return
    if then is not None and then[0] != now[0]:
        raise TorporError(
            f"what {container.name} wrote belongs to another image, {then[0]}; {image} is {now[0]}",
            f"put that image back; or forget what it wrote: rm -r {storage}; "
            f"or use both together, where that makes sense: rm {storage}/image",
        )
    rebase(storage)
    record.write_durably(f"{storage}/image", _serialized(now))


def _make_storage(new: str, lower: str, now: tuple[str, str]) -> None:
    """The upper layer's root is the rootfs's: it begins as that of the image."""
    root = os.stat(lower)
    for name in ("upper", "work"):
        os.mkdir(f"{new}/{name}", 0o700)
    os.chown(f"{new}/upper", root.st_uid, root.st_gid)
    os.chmod(f"{new}/upper", stat.S_IMODE(root.st_mode))
    record.replace(f"{new}/image", _serialized(now))


def _serialized(now: tuple[str, str]) -> bytes:
    return record.serialize("storage", [("image", now[0]), ("directory", now[1])])


def _recorded(storage: str) -> tuple[str, str] | None:
    """The image and the directory that storage is of; None where an administrator accepts any."""
    path = f"{storage}/image"
    text = record.read_bytes(path, 4096)
    if text is None:
        return None
    found = dict(record.parse(text, "storage", path))
    if found.keys() != {"image", "directory"}:
        hint = f"is the image the same? then remove it: rm {path}"
        raise RecordError(f"{path}: is not whole", hint)
    return found["image"], found["directory"]


def _raise(error: OSError) -> None:
    raise error


def _forget_origin(path: str) -> None:
    if _ORIGIN in os.listxattr(path, follow_symlinks=False):
        os.removexattr(path, _ORIGIN, follow_symlinks=False)


def _mount_layers(container: Container, image: str) -> None:
    record.make_directory(rootfs_path(container))
    reason = _mount_overlay(container)
    if "tale file handle" in reason:  # the same directory, on a file system that was copied
        rebase(storage_path(container))
        reason = _mount_overlay(container)
    if reason:
        _unmount_quietly(rootfs_path(container))
        raise TorporError(
            f"cannot mount what {container.name} wrote over {image}: {reason}",
            f"{storage_path(container)} must be on a file system such as ext4, xfs or btrfs, "
            "not on an overlay or NFS; dmesg may say more",
        )


def _mount_overlay(container: Container) -> str:
    """Empty, or why not. The layers of a run that ended just now may still be in use."""
    storage = storage_path(container)
    record.make_directory(f"{storage}/work")  # rebase() removes it
    layers = f"lowerdir={_lower_path(container)},upperdir={storage}/upper,workdir={storage}/work"
    argv = ["mount", "-t", "overlay", "-o", f"{layers},{_OPTIONS}", "overlay"]
    deadline = time.monotonic() + _BUSY_S
    while True:
        reason = program.run([*argv, rootfs_path(container)], timeout_s=mounts.TIMEOUT_S)
        if "busy" not in reason or time.monotonic() > deadline:
            return reason
        time.sleep(_RETRY_S)


def _warnings(container: Container, image: str) -> list[str]:
    """Linux goes on without file handles where a file system has none."""
    if "nfs_export=on" in mounts.options(rootfs_path(container)):
        return []
    return [
        f"the file system of {image} has no file handles: {container.name} cannot sleep while it "
        "watches files (inotify) or has a deleted file of the image open"
    ]

"""One exception type per kind of fault that a caller can act on."""


class TorporError(Exception):
    """A fault that ends a verb: one message, one hint, one exit status."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class DefinitionError(TorporError):
    """The definition or its bundle is wrong: EX_CONFIG of sysexits.h."""

    exit_code = 78


class BusyError(TorporError):
    """Another torpor process holds the container's lock: EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


class RecordError(TorporError):
    """A record on disk cannot be read as what it should be."""


class NewerFormatError(TorporError):
    """A record on disk is of a torpor that came later: nothing may be concluded from it.

    No RecordError: whoever takes an unreadable record for none must not take this one so.
    """


class ForeignContainerError(TorporError):
    """runc has a container of this name that torpor did not make."""


class RuntimeFailedError(TorporError):
    """runc or CRIU did not do what it was asked."""


class HungError(RuntimeFailedError):
    """Something was waited for that showed no sign of life."""


class CheckpointError(RuntimeFailedError):
    """No checkpoint was made. The container goes on as it was."""


class ContainerLostError(RuntimeFailedError):
    """A dump was cut off inside the container's processes: they cannot be trusted, nor restored."""


class RestoreError(RuntimeFailedError):
    """CRIU did not restore sound images."""


class RestoreCutOffError(RestoreError):
    """CRIU or runc was killed in a restore: that says nothing about the images."""


class HostFaultError(RuntimeFailedError):
    """Something on the host made a restore fail: that says nothing about the images."""


class EndedEarlyError(RuntimeFailedError):
    """The container ended before it said that it is ready; status is as of waitstatus_to_exitcode.

    The helper is to end in the same way, as systemd knows no other main process yet.
    """

    def __init__(self, status: int) -> None:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        super().__init__(f"the container ended {how} before it said that it is ready")
        self.status = status


class StoppedError(TorporError):
    """Somebody asked for a stop while the container was being woken: it sleeps on."""


class ImageError(TorporError):
    """A generation's images are damaged, incomplete or another container's."""


class ArchiveError(TorporError):
    """An archive of a container is cut, damaged, not trusted, or not for here."""

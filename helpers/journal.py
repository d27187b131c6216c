"""What a hook has to say. runc shows a hook's standard error only if it fails, crun never."""

import syslog

from torpor.talk import ERROR, WARNING, plain, report, say


def warn(text: str) -> None:
    """Write one warning to standard error and to the journal."""
    say(f"torpor: {text}", WARNING)
    _log(WARNING, text)


def fail(who: str, error: Exception) -> None:
    """Report what ended a hook to standard error, and to the journal without a hint."""
    report(who, error)
    _log(ERROR, f"{who}: {error}")


def _log(priority: int, text: str) -> None:
    syslog.openlog("torpor", 0, syslog.LOG_DAEMON)
    syslog.syslog(priority, plain(text))

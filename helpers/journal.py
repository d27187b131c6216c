"""What a hook has to say. runc shows a hook's standard error only when the hook fails."""

import syslog

from torpor.talk import WARNING, say


def warn(text: str) -> None:
    """Write one warning to standard error and to the journal."""
    say(f"torpor: {text}", WARNING)
    syslog.openlog("torpor", 0, syslog.LOG_DAEMON)
    syslog.syslog(WARNING, text)

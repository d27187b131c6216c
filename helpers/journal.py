"""What a hook has to say. runc shows a hook's standard error only when the hook fails."""

import syslog

from torpor.talk import say


def tell(text: str, level: int) -> None:
    """Write one message to standard error and to the journal, with a level of torpor.talk."""
    say(f"torpor: {text}", level)
    syslog.openlog("torpor", 0, syslog.LOG_DAEMON)
    syslog.syslog(level, text)

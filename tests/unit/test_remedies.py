"""What people search for is on one page, with the same remedy that torpor prints."""

import re
from pathlib import Path

from torpor import remedies

PAGE = Path(__file__).parents[2] / "docs/TROUBLESHOOTING.md"


def sections() -> dict[str, str]:
    """The messages on the page, and what is said of each, as one line."""
    parts = re.split(r"^### `(.*)`$", PAGE.read_text(), flags=re.MULTILINE)
    texts = (part.partition("\n## ")[0] for part in parts[2::2])
    return dict(zip(parts[1::2], (" ".join(text.split()) for text in texts), strict=True))


def test_each_remedy_is_on_the_page_and_what_is_there_of_criu_is_printed() -> None:
    of_criu = PAGE.read_text().partition("\n## torpor\n")[0]
    messages = {message: text for message, text in sections().items() if message in of_criu}
    assert len(messages) == len(remedies.REMEDIES)
    for message, text in messages.items():
        remedy = remedies.of([message])
        assert remedy, message
        assert text == f"{remedy[0].upper()}{remedy[1:]}.", message


def test_each_remedy_is_for_some_message_of_the_page() -> None:
    found = {remedies.of([message]) for message in sections()}
    assert {remedy for _, remedy in remedies.REMEDIES} <= found

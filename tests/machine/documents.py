"""Documents whose commands a test types as they stand there."""

import re
from pathlib import Path

_BLOCK = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)


def commands(path: Path, section: str = "") -> str:
    """The code blocks of a document, or of a section of it, as one script."""
    text = path.read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = _BLOCK.findall(text)
    assert blocks, f"{path} has no commands in {section!r}"
    return "".join(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks)

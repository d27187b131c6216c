"""Two memories are compared page by page."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.criu_images import PAGE_BYTES, Run
from torpor.errors import ImageError
from torpor.page_difference import Memory, Pages, compare

Content = dict[int, int]  # page number → what is in it


def runs_of(content: Content, longest: int) -> Iterator[Run]:
    """As CRIU writes them: neighbours together, but in pieces."""
    begin: int | None = None
    for at, page in enumerate(sorted(content)):
        if begin is None:
            begin, first = page, at
        if page + 1 not in content or page + 1 - begin == longest:
            yield Run(begin * PAGE_BYTES, page + 1 - begin, first * PAGE_BYTES)
            begin = None


def memory(path: Path, content: Content, longest: int = 1 << 20) -> Memory:
    path.write_bytes(b"".join(bytes([content[page]]) * PAGE_BYTES for page in sorted(content)))
    return Memory(runs_of(content, longest), os.open(path, os.O_RDONLY))


def pages(before: Content, after: Content) -> Pages:
    """What the comparison must find."""
    both = before.keys() & after.keys()
    same = sum(before[page] == after[page] for page in both)
    return Pages(same, len(both) - same, len(after) - len(both), len(before) - len(both))


def compared(place: Path, before: Content, after: Content, longest: int, other: int) -> Pages:
    left, right = memory(place / "a", before, longest), memory(place / "b", after, other)
    try:
        return compare(left, right)
    finally:
        os.close(left.fd)
        os.close(right.fd)


CONTENT = st.dictionaries(st.integers(0, 40), st.integers(0, 2), max_size=30)


@given(CONTENT, CONTENT, st.integers(1, 9), st.integers(1, 9))
def test_whatever_pages_there_are(
    tmp_path_factory: pytest.TempPathFactory,
    before: Content,
    after: Content,
    longest: int,
    other: int,
) -> None:
    place = tmp_path_factory.getbasetemp()
    assert compared(place, before, after, longest, other) == pages(before, after)


def test_runs_that_are_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    chance = random.Random(1)
    before = {page: chance.randrange(3) for page in range(2000)}
    after = {page: chance.randrange(3) for page in range(700, 3000)}
    assert compared(tmp_path, before, after, 1 << 20, 1500) == pages(before, after)


def test_nothing_is_like_nothing(tmp_path: Path) -> None:
    assert compared(tmp_path, {}, {}, 1, 1) == Pages()


def test_one_byte_changes_a_page(tmp_path: Path) -> None:
    left = memory(tmp_path / "a", {0: 1, 1: 1, 2: 1})
    right = memory(tmp_path / "b", {0: 1, 1: 1, 2: 1})
    with (tmp_path / "b").open("r+b") as file:
        file.seek(2 * PAGE_BYTES - 1)
        file.write(b"\0")
    assert compare(left, right) == Pages(same=2, changed=1)


def test_what_an_earlier_dump_has_cannot_be_compared(tmp_path: Path) -> None:
    right = memory(tmp_path / "b", {0: 1})
    with pytest.raises(ImageError, match="an earlier dump"):
        compare(Memory(iter([Run(0, 1, None)]), right.fd), right)

"""The Python of the documentation runs: the blocks of a page are one module, and its tests are run here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from ikev2_pair import free_ports

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = ("testing.md", "extending.md")
PORTS = ("15500", "14500")


def blocks(page: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each Python block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        yield text.count("\n", 0, match.start()) + 2, match[1]


def compiled(page: str, line: int, source: str) -> CodeType:
    """A traceback names the page and its line."""
    return compile("\n" * (line - 1) + source, str(DOCS / page), "exec", dont_inherit=True)


def namespace(page: str) -> dict[str, Any]:
    """All blocks of a page, run in order; its fixed ports become free ones."""
    space: dict[str, Any] = {"__name__": page}
    free = [str(port) for port in free_ports(len(PORTS))]
    for line, source in blocks(page):
        for port, one in zip(PORTS, free, strict=True):
            source = source.replace(port, one)
        exec(compiled(page, line, source), space)
    return space


def functions() -> list[tuple[str, str]]:
    """(page, test) of all pages."""
    sources = [(page, source) for page in PAGES for _, source in blocks(page)]
    return [(page, name) for page, source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)]


def test_the_pages_have_tests() -> None:
    assert {page for page, _ in functions()} == set(PAGES)


@pytest.mark.parametrize(("page", "name"), functions())
def test_of_the_documentation(page: str, name: str, tmp_path: Path) -> None:
    function = namespace(page)[name]
    function(*(tmp_path for _ in inspect.signature(function).parameters))


def test_the_first_example_has_at_most_twenty_lines() -> None:
    _, source = next(blocks("testing.md"))
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
    assert max(map(len, source.splitlines())) <= 116

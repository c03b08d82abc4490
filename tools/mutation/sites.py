"""Where a requirement is enforced: the statements that a comment with its id stands on or above.

A docstring that names an id names no line. What no statement enforces, because it is that something does *not*
happen, has a change that breaks it in tests/requirements/mutations.toml.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("ikev2", "ippm", "binding")
_IDS = re.compile(r"(rfc\d{4}-s[\w.]+)-(m?\d+[a-z]?)((?:, -m?\d+[a-z]?)*)")
_LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """One line of code that a comment names, or one change that mutations.toml gives."""

    file: str
    line: int
    was: str = ""
    becomes: str = ""


def ids_in(text: str) -> Iterator[str]:
    """The ids in a comment; `rfc4656-s4.1.2-02, -03` are two."""
    for found in _IDS.finditer(text):
        yield f"{found[1]}-{found[2]}"
        for more in re.findall(r"-m?\d+[a-z]?", found[3]):
            yield found[1] + more


def of_source(source: str) -> Iterator[tuple[str, int]]:
    """(id, line of code) for every comment of one module."""
    pending: list[str] = []
    code_lines: set[int] = set()
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token in tokens:
        if token.type not in _LAYOUT:
            code_lines.update(range(token.start[0], token.end[0] + 1))
    for token in tokens:
        if token.type == tokenize.COMMENT:
            ids = list(ids_in(token.string))
            if token.start[0] in code_lines:
                yield from ((identifier, token.start[0]) for identifier in ids)
            else:
                pending += ids
        elif token.type not in _LAYOUT and pending:
            yield from ((identifier, token.start[0]) for identifier in pending)
            pending = []


def find(root: Path) -> dict[str, list[Site]]:
    """id -> where it is enforced, in the packages under `root`; a change that no longer fits is left out."""
    found: dict[str, list[Site]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            for identifier, line in of_source(path.read_text(encoding="utf-8")):
                if (site := Site(name, line)) not in found[identifier]:
                    found[identifier].append(site)
    for change in given_changes(root):
        text = (root / change["file"]).read_text(encoding="utf-8") if (root / change["file"]).exists() else ""
        if text.count(change["was"]) == 1:
            line = text[: text.index(change["was"])].count("\n") + 1
            for identifier in change["ids"]:
                found[identifier].append(Site(change["file"], line, change["was"], change["becomes"]))
    return found


def given_changes(root: Path) -> list[dict]:
    """The entries of mutations.toml: ids, file, was, becomes."""
    path = root / "tests" / "requirements" / "mutations.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")).get("change", []) if path.exists() else []


def statement_at(tree: ast.Module, line: int) -> ast.stmt | None:
    """The innermost statement that has this line; for `else:` and its like, the first one of its block."""
    best: ast.stmt | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if first <= line <= (node.end_lineno or line) and (best is None or node.lineno >= best.lineno):
                best = node
    if best is not None and isinstance(best, ast.If | ast.Try | ast.For | ast.While) and line > best.body[0].lineno:
        later = [node for node in ast.walk(best) if isinstance(node, ast.stmt) and node.lineno > line]
        best = min(later, key=lambda node: (node.lineno, node.col_offset)) if later else best
    elif isinstance(best, ast.Try):
        best = best.body[0]
    return best

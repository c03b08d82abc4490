"""The binding stands on the public APIs of ikev2 and ippm, and does not know where SK_d or KEYMAT are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted((ROOT / "binding").glob("*.py"))
KEY_WORDS = frozenset(
    {"sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr", "keymat", "keys", "need_keys", "psk"}
    | {f"{kind}_key_{way}" for kind in ("encr", "integ") for way in ("in", "out", "i", "r")}
)
"""Attributes of ikev2's objects that hold keys."""

PUBLIC = {"ikev2.embedding"}
"""The modules below the two packages that are public beside the packages themselves."""

TAKES_KEYS_FROM_THE_COMMAND_LINE = {"derive.py", "cli.py"}


def imports(source: str) -> list[str]:
    """Modules below `ikev2` and `ippm` that a source imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.startswith(("ikev2.", "ippm."))]


def key_attributes(source: str) -> list[str]:
    """Reads of attributes that would be keys: `line: name`, also by getattr."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) if name in KEY_WORDS:
                found.append(f"{node.lineno}: {name}")
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]) if (
                name in KEY_WORDS
            ):
                found.append(f"{node.lineno}: {name}")
            case _:
                pass
    return sorted(found)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_only_public_apis_are_imported(path: Path) -> None:
    assert set(imports(path.read_text())) <= PUBLIC


@pytest.mark.req("rfc7717-s5.1-m2")
@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.name not in TAKES_KEYS_FROM_THE_COMMAND_LINE],
    ids=lambda path: path.name,
)
def test_no_module_reads_a_key_of_ike(path: Path) -> None:
    assert key_attributes(path.read_text()) == []


def test_the_test_sees_what_it_looks_for() -> None:
    assert key_attributes("x = sa.keys.sk_d\ny = getattr(child, 'keymat')") == ["1: keys", "1: sk_d", "2: keymat"]
    assert imports("from ikev2.core.manager import SaManager") == ["ikev2.core.manager"]
    assert len(MODULES) > 10

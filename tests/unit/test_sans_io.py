"""The protocol cores and the codecs do no I/O: they take time, entropy and octets as arguments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SANS_IO = ("ikev2/core", "ikev2/wire", "ippm/core", "ippm/wire")
FORBIDDEN_MODULES = frozenset(
    {
        *("socket", "time", "os", "asyncio", "logging", "random", "secrets", "threading", "select", "selectors"),
        *("subprocess", "multiprocessing", "signal", "ssl", "uuid"),
    }
)
FORBIDDEN_CALLS = frozenset({"open", "input", "print", "__import__", "exec", "eval"})


def violations(source: str) -> list[str]:
    """What a module does that a sans-IO module may not: `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: calls {name}()")
                continue
            case ast.Call(func=ast.Attribute(attr="import_module")):
                found.append(f"{node.lineno}: calls import_module()")
                continue
            case _:
                continue
        found.extend(
            f"{node.lineno}: imports {module}" for module in modules if module.split(".")[0] in FORBIDDEN_MODULES
        )
    return found


def modules() -> list[Path]:
    return sorted(path for folder in SANS_IO for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_core_and_wire_modules_do_no_io(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("folder", SANS_IO)
def test_every_sans_io_package_is_walked(folder: str) -> None:
    assert any(path.is_relative_to(ROOT / folder) for path in modules())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import socket", ["1: imports socket"]),
        ("import os.path as p", ["1: imports os.path"]),
        ("\nfrom time import monotonic", ["2: imports time"]),
        ("from asyncio.events import get_event_loop", ["1: imports asyncio.events"]),
        ("import json, random", ["1: imports random"]),
        ("def f():\n    import secrets", ["2: imports secrets"]),
        ("if TYPE_CHECKING:\n    import threading", ["2: imports threading"]),
        ("with open('x') as f: pass", ["1: calls open()"]),
        ("x = __import__('socket')", ["1: calls __import__()"]),
        ("import importlib\nimportlib.import_module('socket')", ["2: calls import_module()"]),
        ("import ipaddress, struct\nfrom ikev2.wire import message\nfrom . import time\nself.open()", []),
    ],
)
def test_the_walk_sees_what_it_should(source: str, expected: list[str]) -> None:
    assert violations(source) == expected

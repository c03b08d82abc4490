"""docs/serve.md has every word of a server's file, in the table where it is, with its default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ippm.io.options import ServerOptions
from ippm.io.owamp_options import OwampServerOptions

PAGE = Path(__file__).resolve().parents[3] / "docs" / "serve.md"
NO_WORDS = {"mark_callback", "usage", "key_log", "impairments"}


def documented(column: int) -> dict[str, str]:
    """Word -> default, of the words that have an x in this column."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[column] == "x":
            words = re.findall(r"`(\w+)`", cells[0])
            defaults = cells[1].split(", ") if len(words) > 1 else [cells[1]] * len(words)
            found |= dict(zip(words, defaults, strict=True))
    return found


@pytest.mark.parametrize(("column", "kind"), [(2, ServerOptions), (3, OwampServerOptions)])
def test_every_word_is_there(column: int, kind: type[ServerOptions | OwampServerOptions]) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in NO_WORDS}
    told = documented(column)
    assert set(told) == set(fields)
    for name, default in fields.items():
        if isinstance(default, bool):
            assert told[name] == str(default).lower()
        elif isinstance(default, int | float) and name not in {"port", "modes"}:
            assert told[name].split(",")[0] == f"{default:g}" if default < 1e6 else str(default)


def test_the_example_is_read(tmp_path: Path) -> None:
    from ippm.cli.settings import read_server_file

    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    path = tmp_path / "server.toml"
    path.write_text(example[1])
    tables = read_server_file(path)
    assert tables.twamp is not None
    assert tables.owamp is not None
    assert (tables.twamp.address, tables.key_file) == ("192.0.2.2", tmp_path / "keys.pfs")
    assert tables.owamp.directory == str(tmp_path / "records")

"""Running something of the project as a user who may do nothing: what that user needs to be able to read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOBODY = "65534"
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def readable(directory: Path) -> Path:
    """The directory, which any user may look into from now on."""
    for path in (directory, *directory.parents):
        if path == Path("/"):
            break
        if path.owner() == "root" and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    return directory


def readable_python(directory: Path, *more: str) -> tuple[str, dict[str, str]]:
    """A Python that any user may run, with what the project needs, and the environment for it.

    The interpreter of the tests may live where only root can look; then the system's own of the same version serves,
    with the installed packages on its path. `more` folders of the project are copied beside the packages.
    """
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    copied = directory / "packages"
    shutil.copytree(
        packages, copied, ignore=shutil.ignore_patterns("__pycache__", "scapy*", "mypy*", "hypothesis*")
    )
    for name in ("ikev2", "ippm", "binding", *more):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [*AS_NOBODY, "sh", "-c", 'exec "$0" -c "import ssl"', candidate]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return candidate, {"PYTHONPATH": f"{directory}:{copied}"}
    pytest.skip(f"no {version} here that another user may run")

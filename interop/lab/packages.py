"""What must be installed for which part of the laboratory, and whether it is.

    python -m interop.lab.packages            # a table, and the apt-get line for what is missing

A tool counts as there when its program is found: a source build serves as well as Debian's package.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program or file, the Debian package that brings it, and what it is for."""

    name: str
    package: str
    purpose: str

    @property
    def found(self) -> str | None:
        """Where it is; None when it is not."""
        if self.name.startswith("/"):
            return self.name if Path(self.name).exists() else None
        return shutil.which(self.name) or shutil.which(self.name, path=":".join(_PATH))


TOOLS = (
    Tool("unshare", "util-linux", "namespaces without root"),
    Tool("setpriv", "util-linux", "processes that end with their parent"),
    Tool("nsenter", "util-linux", "shells on the hosts of make lab"),
    Tool("tmux", "tmux", "these shells on one terminal"),
    Tool("ip", "iproute2", "looking at XFRM state with other eyes"),
    Tool("tc", "iproute2", "netem, where the kernel has it"),
    Tool("ping", "iputils-ping", "reachability"),
    Tool("linux.uml", "user-mode-linux", "a kernel with ESP"),
    Tool("/usr/lib/uml/modules", "user-mode-linux", "its modules"),
    Tool("modprobe", "kmod", "loading them"),
    Tool("tshark", "tshark", "the oracle that decrypts"),
    Tool("charon-systemd", "charon-systemd", "the strongSwan peer"),
    Tool("swanctl", "strongswan-swanctl", "its control"),
    Tool("pki", "strongswan-pki", "certificates"),
    Tool("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins", "userspace ESP"),
    Tool("iked", "openiked", "the OpenIKED peer"),
)


def missing(*names: str) -> list[Tool]:
    """Those of the named tools (all, without names) that are not there."""
    return [tool for tool in TOOLS if (not names or tool.name in names) and tool.found is None]


def skip_reason(*names: str) -> str | None:
    """One sentence for a skipped test; None when all is there."""
    absent = missing(*names)
    if not absent:
        return None
    packages = sorted({tool.package for tool in absent})
    return f"{', '.join(tool.name for tool in absent)} missing: apt-get install {' '.join(packages)}"


def main() -> int:
    """Prints the table; 1 when something is missing."""
    for tool in TOOLS:
        print(f"{tool.found or 'missing':<50} {tool.package:<26} {tool.purpose}")
    if (reason := skip_reason()) is not None:
        print(f"\n{reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

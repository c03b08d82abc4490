"""Giving up root once the ports below 1024 are bound, for good.

`concurrent.futures.thread` is imported here because asyncio would do it late, when its file may be out of reach.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ippm.errors import ConfigurationError, IppmError


@dataclass(frozen=True, slots=True)
class RunAs:
    """The user and group that a server goes on as."""

    name: str
    uid: int
    group: str
    gid: int

    def __str__(self) -> str:
        return f"user {self.name} ({self.uid}), group {self.group} ({self.gid})"


def parse_user(text: str, where: str = "--user") -> RunAs:
    """`NAME` or `NAME:GROUP`, each also as a number. Raises ConfigurationError."""
    import grp
    import pwd

    name, colon, group = text.partition(":")
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise ConfigurationError(f"{where} {text}: there is no user {name!r}") from None
    try:
        if not colon:
            its = grp.getgrgid(found.pw_gid)
        else:
            its = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
    except (KeyError, OverflowError):
        raise ConfigurationError(f"{where} {text}: there is no group {group or found.pw_gid!r}") from None
    if found.pw_uid == 0 or its.gr_gid == 0:
        raise ConfigurationError(f"{where} {text}: a user and a group without root's rights are wanted")
    return RunAs(found.pw_name, found.pw_uid, its.gr_name, its.gr_gid)


def check_unprivileged_ports(who: RunAs, name: str, ports: tuple[int, int]) -> None:
    """Raises ConfigurationError when test ports would have to be bound that only root may bind."""
    least = unprivileged_port_start()
    if ports[0] < least:
        raise ConfigurationError(
            f"{name} = {ports[0]}-{ports[1]}: {who.name} cannot bind ports below {least}; "
            f"a range from {least} up is wanted"
        )


def unprivileged_port_start() -> int:
    """The first port that any user may bind."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def drop_privileges(who: RunAs, directory: Path | None = None) -> None:
    """Become `who`, all three IDs and all groups, so that there is no way back. `directory` is one to write in.

    Raises IppmError when that fails: the caller is not to go on as root.
    """
    if (os.geteuid(), os.getegid()) == (who.uid, who.gid):
        _check_directory(who, directory)
        return
    if os.geteuid() != 0:
        raise IppmError(f"cannot become {who.name}: only root can become another user")
    try:
        os.initgroups(who.name, who.gid)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        raise IppmError(f"cannot become {who.name}: {error.strerror}; the server does not go on as root") from None
    if not _is(who):
        raise IppmError(f"cannot become {who.name}: still root; the server does not go on")
    _check_directory(who, directory)


def _is(who: RunAs) -> bool:
    """True when every ID is that of `who`, and root's cannot be had again."""
    if os.getresuid() != (who.uid,) * 3 or os.getresgid() != (who.gid,) * 3:
        return False
    try:
        os.setuid(0)
    except OSError:
        return True
    return False


def give(who: RunAs, paths: Iterable[Path]) -> None:
    """Make these files or directories, which root has made, the user's own. Raises IppmError."""
    for path in paths:
        try:
            os.chown(path, who.uid, who.gid, follow_symlinks=False)
        except OSError as error:
            raise IppmError(f"{path}: cannot be given to {who.name}: {error.strerror}") from None


def _check_directory(who: RunAs, directory: Path | None) -> None:
    if directory is not None and not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise IppmError(f"{directory}: {who.name} cannot write there; chown it to {who.name}")

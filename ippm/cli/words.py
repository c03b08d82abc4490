"""What the words of the command line say: hosts, ports, intervals."""

from __future__ import annotations

import re

from ippm.errors import ConfigurationError


def parse_ports(text: str, name: str = "ports") -> tuple[int, int]:
    """`8760-8960`, or one port. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text.strip())
    if match is None:
        raise ConfigurationError(f"{name}: {text!r} is no port and no range like 8760-8960")
    from ippm.io.options import check_port_range

    first = int(match[1])
    ports = first, int(match[2] or first)
    check_port_range(name, ports)
    return ports


def parse_host(text: str, default_port: int) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[ADDRESS]:PORT`, or an IPv6 address. Raises ConfigurationError."""
    host, port = text, ""
    if match := re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", text):
        host, port = match[1], match[2] or ""
    elif text.count(":") == 1:
        host, port = text.split(":")
    if "[" in host or "]" in host:
        host = ""
    number = int(port) if port.isdecimal() else -1 if port or text.endswith(":") else default_port
    if not host or not 0 < number <= 65535:
        raise ConfigurationError(f"{text!r} is not HOST, HOST:PORT or [ADDRESS]:PORT")
    return host, number


def parse_interval(text: str) -> tuple[float, bool]:
    """Seconds, and whether their distribution is exponential: `0.1` and `0.1e` are, `0.1f` is fixed.

    Raises ConfigurationError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([ef]?)", text.strip())
    if match is None:
        raise ConfigurationError(f"interval {text!r}: seconds, then e (exponential, the default) or f (fixed)")
    return float(match[1]), match[2] != "f"

"""`ippm-ipsec init`: the configuration files of two hosts and a fresh PSK for both."""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path

from ikev2.embedding import ConfigurationError

PSK_OCTETS = 32

TEMPLATE = """\
# Host {name}: IKE peer {peer} at {remote}. Words are swanctl's; [measurement] is in docs/rfc7717.md.
[connections.lab]
local_addrs  = ["{local}"]
remote_addrs = ["{remote}"]
proposals    = ["{proposal}"]
local  = {{ auth = "psk", id = "{name}" }}
remote = {{ auth = "psk", id = "{peer}" }}

[connections.lab.children.net]
mode = "{mode}"
local_ts = ["dynamic"]
remote_ts = ["dynamic"]
esp_proposals = ["{esp_proposal}"]
start_action = "{start}"

[secrets.lab]
id = ["{name}", "{peer}"]
file = "{psk}"

[measurement]
derivation = "rfc7717"
path = "bypass"
"""

IKE_PROPOSAL = "aes256gcm16-prfsha384-curve25519"
ESP_PROPOSAL = "aes256gcm16"


def write_psk(path: Path) -> None:
    """A fresh PSK of 32 random octets as 0x hex, in a new file of mode 0600. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("0x" + secrets.token_hex(PSK_OCTETS) + "\n")


def host_toml(
    name: str, peer: str, local: str, remote: str, psk: Path | str, *, start: str = "none", mode: str = "tunnel",
    proposal: str = IKE_PROPOSAL, esp_proposal: str = ESP_PROPOSAL,
) -> str:  # fmt: skip
    """One host's configuration."""
    return TEMPLATE.format(
        name=name, peer=peer, local=local, remote=remote, psk=psk, start=start, mode=mode, proposal=proposal,
        esp_proposal=esp_proposal,
    )  # fmt: skip


def _address(option: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigurationError(f"{option}: {text!r} is not an IP address, such as 192.0.2.1") from None


def write_pair(local: str, peer: str, directory: Path) -> list[str]:
    """Write a.toml, b.toml and lab.psk; gives the lines that tell a person what to do next.

    Raises ConfigurationError for something that is no pair of addresses, or a file that is there already.
    """
    addresses = [_address(option, text) for option, text in (("--local", local), ("--peer", peer))]
    if addresses[0].version != addresses[1].version:
        raise ConfigurationError(f"--peer: {peer} and {local} are not of the same IP version")
    if addresses[0] == addresses[1]:
        raise ConfigurationError(f"--peer: {peer} is this host's own address")
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / name for name in ("a.toml", "b.toml", "lab.psk")]
    for file in files:
        if file.exists():
            raise ConfigurationError(f"{file} is there already; give another --directory, or remove it")
    write_psk(files[2])
    files[0].write_text(host_toml("a.example", "b.example", local, peer, "lab.psk", start="start"))
    files[1].write_text(host_toml("b.example", "a.example", peer, local, "lab.psk"))
    return [
        f"wrote {files[0]} (this host, {local}), {files[1]} (the other host, {peer}) and {files[2]} (mode 0600)",
        f"copy {files[1].name} and {files[2].name} to {peer}, keeping the mode; there run:",
        f"    ippm-ipsec host -c {files[1].name}",
        "then here:",
        f"    ippm-ipsec twping -c {files[0]} {peer}",
    ]

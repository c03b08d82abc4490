"""SAs and policies in the words of `ip xfrm`, for a person to read and, ports with a mask aside, to run.

iproute2's grammar has no port masks: such a port is followed by a comment with the mask.
"""

from __future__ import annotations

import socket
from dataclasses import replace

from ikev2.ipsec.xfrm.attributes import Algorithm, Offload
from ikev2.ipsec.xfrm.messages import Policy, Sa
from ikev2.ipsec.xfrm.structs import AF_INET6, PolicyId, SaId, Selector, Template
from ikev2.ipsec.xfrm.uapi import XFRM_INF, OffloadFlag, SaFlag

_FLAG_WORDS = {SaFlag.NOECN: "noecn", SaFlag.AF_UNSPEC: "af-unspec", SaFlag.ESN: "esn"}
_PROTOCOL_WORDS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}


def without_keys(sa: Sa) -> Sa:
    """The SA with zeros in place of its keys."""

    def blank(algorithm: Algorithm | None) -> Algorithm | None:
        return None if algorithm is None else replace(algorithm, key=bytes(len(algorithm.key)))

    return replace(sa, aead=blank(sa.aead), crypt=blank(sa.crypt), auth=blank(sa.auth))


def _key(algorithm: Algorithm) -> str:
    return f"0x{algorithm.key.hex()}" if algorithm.key else '""'


def sa_words(sa: Sa, verb: str = "add") -> str:
    """`ip xfrm state add ...`, with the keys in clear: see `without_keys`."""
    info = sa.info
    window = info.replay_window if sa.replay_esn is None else sa.replay_esn.window
    words = [
        f"ip xfrm state {verb} src {info.source} dst {info.destination} proto esp spi {info.spi:#010x}",
        f"reqid {info.reqid} mode {info.mode.name.lower()} replay-window {window}",
    ]
    flags = [word for flag, word in _FLAG_WORDS.items() if flag in info.flags]
    if flags:
        words.append("flag " + " ".join(flags))
    if sa.aead is not None:
        words.append(f"aead '{sa.aead.name}' {_key(sa.aead)} {sa.aead.icv_bits}")
    if sa.auth is not None:
        words.append(f"auth-trunc '{sa.auth.name}' {_key(sa.auth)} {sa.auth.icv_bits}")
    if sa.crypt is not None:
        words.append(f"enc '{sa.crypt.name}' {_key(sa.crypt)}")
    limits = info.lifetime
    for word, limit in (
        ("byte-soft", limits.soft_octets),
        ("byte-hard", limits.hard_octets),
        ("packet-soft", limits.soft_packets),
        ("packet-hard", limits.hard_packets),
    ):
        if limit != XFRM_INF:
            words.append(f"limit {word} {limit}")
    if sa.encap is not None:
        words.append(f"encap espinudp {sa.encap.source_port} {sa.encap.destination_port} 0.0.0.0")
    if sa.tfc_padding:
        words.append(f"tfcpad {sa.tfc_padding}")
    if sa.if_id:
        words.append(f"if_id {sa.if_id:#x}")
    if sa.offload is not None:
        way = "in" if OffloadFlag.INBOUND in sa.offload.flags else "out"
        words.append(f"{_offload_words(sa.offload)} dir {way}")
    if sa.direction is not None:
        words.append(f"dir {sa.direction.name.lower()}")
    if info.selector.source is None:
        return " ".join(words)
    return " ".join([*words, f"sel {selector_words(info.selector)}"]) + _mask_comment(info.selector)


def _offload_words(offload: Offload) -> str:
    """`offload [packet] dev NAME`; a device that is not here by its number."""
    kind = "offload packet" if OffloadFlag.PACKET in offload.flags else "offload"
    try:
        name = socket.if_indextoname(offload.interface_index)
    except OSError:
        name = f"if{offload.interface_index}"
    return f"{kind} dev {name}"


def sa_id_words(sa_id: SaId, source: str) -> str:
    """`ip xfrm state delete ...`."""
    return f"ip xfrm state delete src {source} dst {sa_id.destination} proto esp spi {sa_id.spi:#010x}"


def selector_words(selector: Selector) -> str:
    """`src NET dst NET proto P sport N dport N`; a mask that is not for one port follows as a comment."""
    if selector.source is None:
        anything = "::/0" if selector.family == AF_INET6 else "0.0.0.0/0"
        return f"src {anything} dst {anything}"
    words = [f"src {selector.source} dst {selector.destination}"]
    if selector.protocol:
        words.append(f"proto {_PROTOCOL_WORDS.get(selector.protocol, selector.protocol)}")
    icmp = selector.protocol in (1, 58)
    ports = (
        ("type" if icmp else "sport", selector.source_port, selector.source_port_mask),
        ("code" if icmp else "dport", selector.destination_port, selector.destination_port_mask),
    )
    words += [f"{word} {port}" for word, port, mask in ports if mask]
    return " ".join(words)


def _mask_comment(selector: Selector) -> str:
    masks = (("sport", selector.source_port_mask), ("dport", selector.destination_port_mask))
    odd = [f"{word} mask {mask:#06x}" for word, mask in masks if mask not in (0, 0xFFFF)]
    return f"  # {', '.join(odd)}" if odd else ""


def _template_words(template: Template) -> str:
    spi = f" spi {template.spi:#010x}" if template.spi else ""
    ends = f"src {template.source} dst {template.destination}"
    return f"tmpl {ends} proto esp{spi} reqid {template.reqid} mode {template.mode.name.lower()}"


def policy_words(policy: Policy, verb: str = "add") -> str:
    """`ip xfrm policy add ...`."""
    info = policy.info
    words = [
        f"ip xfrm policy {verb} {selector_words(info.selector)}",
        f"dir {info.direction.name.lower()} priority {info.priority}",
        *([f"if_id {policy.if_id:#x}"] if policy.if_id else []),
        *([_offload_words(policy.offload)] if policy.offload is not None else []),
        *(_template_words(template) for template in policy.templates),
    ]
    if info.action:
        words.append("action block")
    return " ".join(words) + _mask_comment(info.selector)


def policy_id_words(policy_id: PolicyId) -> str:
    """`ip xfrm policy delete ...`."""
    selector = policy_id.selector
    if_id = f" if_id {policy_id.if_id:#x}" if policy_id.if_id else ""
    return (
        f"ip xfrm policy delete {selector_words(selector)} dir {policy_id.direction.name.lower()}{if_id}"
        f"{_mask_comment(selector)}"
    )

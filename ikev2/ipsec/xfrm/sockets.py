"""Socket options with which the kernel treats IKE's UDP sockets apart."""

from __future__ import annotations

import os
import socket

from ikev2.errors import BackendError
from ikev2.ipsec.xfrm.messages import Policy
from ikev2.ipsec.xfrm.structs import PolicyInfo, Selector
from ikev2.ipsec.xfrm.uapi import (
    IP_XFRM_POLICY,
    IPV6_XFRM_POLICY,
    UDP_ENCAP,
    UDP_ENCAP_ESPINUDP,
    PolicyDirection,
)


def accept_esp_in_udp(sock: socket.socket) -> None:
    """ESP in the socket's datagrams goes to the kernel's SAs; what has the non-ESP marker stays ours.

    RFC 3948 sections 2.2 and 3.1.
    """
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
    except OSError as error:
        raise BackendError(
            f"cannot take ESP in UDP on port {sock.getsockname()[1]}: {os.strerror(error.errno or 0)}"
        ) from error


def exempt_from_policies(sock: socket.socket) -> None:
    """What the socket sends and receives is BYPASS, whatever the namespace's policies say. RFC 4301 section 5.1."""
    if sock.family == socket.AF_INET6:
        level, option, family = socket.IPPROTO_IPV6, IPV6_XFRM_POLICY, socket.AF_INET6
    else:
        level, option, family = socket.IPPROTO_IP, IP_XFRM_POLICY, socket.AF_INET
    for direction in (PolicyDirection.IN, PolicyDirection.OUT):
        octets = Policy(PolicyInfo(Selector(any_family=int(family)), direction)).encode()
        try:
            sock.setsockopt(level, option, octets)
        except OSError as error:
            raise BackendError(
                f"cannot keep the IKE socket out of the tunnel: {os.strerror(error.errno or 0)}"
            ) from error

"""Which network device does ESP for a Child SA: that which has its outer address. swanctl's `hw_offload`."""

from __future__ import annotations

import ipaddress

from pyroute2 import IPRoute

from ikev2.core.child_sa import ChildSaParameters, HwOffload
from ikev2.errors import BackendError
from ikev2.ipsec.xfrm.attributes import Offload
from ikev2.ipsec.xfrm.uapi import OffloadFlag


def offloads(child: ChildSaParameters) -> list[Offload | None]:
    """What is to be tried, in order; the last one has to do."""
    wanted = child.kernel.hw_offload
    if wanted is HwOffload.NO:
        return [None]
    index = interface_of(child.local)
    whole, cipher = Offload(index, OffloadFlag.PACKET), Offload(index)
    if wanted is HwOffload.AUTO:
        return [whole, cipher, None]
    return [whole if wanted is HwOffload.PACKET else cipher]


def interface_of(address: str) -> int:
    """The index of the interface that has an address. BackendError when there is none."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    with IPRoute() as netlink:
        for found in netlink.get_addr():
            text = found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")
            if text and ipaddress.ip_address(text) == wanted:
                return int(found["index"])
    raise BackendError(f"no interface has the address {address}: there is no device to offload to")

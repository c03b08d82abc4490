"""The kernel's transmit stamps over a veth pair, whose driver stamps what it sends, in IPv4 and IPv6."""

from __future__ import annotations

import pytest

from ikev2.io.netns import TwoHosts
from interop.lab.netns import why_no_namespaces
from ippm.core.schedule import FixedSchedule
from ippm.core.session_reflector import ReflectorPlan
from ippm.core.session_sender import SenderPlan
from ippm.io.reflector_loop import Reflector
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import open_test_socket
from ippm.io.transmit_stamps import StampOptions, open_transmit_stamps
from ippm.timestamps import ntp_difference_ns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]
SID = bytes(16)
ADDRESSES = {
    "ipv4": {"a": ["192.0.2.1/24"], "b": ["192.0.2.2/24"]},
    "ipv6": {"a": ["2001:db8::1/64"], "b": ["2001:db8::2/64"]},
}


@pytest.mark.req("rfc5357-s4.1.1-01", "rfc5357-s4.2-01", "rfc5357-s4.2-06")
@pytest.mark.parametrize("correct", [False, True], ids=["as they are", "corrected"])
@pytest.mark.parametrize("family", ADDRESSES)
def test_each_packet_left_after_its_stamp_and_arrived_after_it_left(family: str, correct: bool) -> None:
    addresses = ADDRESSES[family]
    near, far = (addresses[name][0].partition("/")[0] for name in "ab")
    with TwoHosts(addresses["a"], addresses["b"]) as hosts:
        here = hosts.call("a", lambda: open_test_socket(near))
        there = hosts.call("b", lambda: open_test_socket(far))
        stamps, refused = open_transmit_stamps(here)
        if stamps is None:
            pytest.skip(refused)
        stamps.close()
        reflector = Reflector(correct_stamps=correct)
        try:
            local, remote = here.getsockname()[:2], there.getsockname()[:2]
            reflector.add_session(ReflectorPlan(SID, 1, None, remote, local), there)
            reflector.start(SID)
            plan = SenderPlan(SID, 1, None, local, remote, 100, FixedSchedule(1_000_000), padding_octets=27)
            records = run_sender(plan, here, stamps=StampOptions(correct=correct))
        finally:
            reflector.close()
            here.close()
    assert records.received == records.sent == 100
    assert all(records.departure)
    assert records.rejected == {}
    for t1, left, t2, t3, t4 in zip(records.t1, records.departure, records.t2, records.t3, records.t4, strict=True):
        assert left <= t2 < t3
        assert left < t4
        if not correct:
            assert t1 <= left
            assert t3 <= t4
            assert ntp_difference_ns(t2, left) < ntp_difference_ns(t2, t1)

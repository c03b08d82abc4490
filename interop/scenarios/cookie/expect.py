"""strongSwan asks for cookies once somebody has left an IKE SA half open. RFC 7296 section 2.6.

HDR(A,0), SAi1, KEi, Ni  -->
                    <--  HDR(A,0), N(COOKIE)
HDR(A,0), N(COOKIE), SAi1, KEi, Ni  -->
                    <--  HDR(A,B), SAr1, KEr, Nr
"""

import socket
from contextlib import closing

from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.suites import parse_ike_proposal
from ikev2.iana import ExchangeType, KeId, PayloadType
from ikev2.io.entropy import SystemEntropy
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Ke, Nonce, Sa
from interop.scenarios.run import Run


def half_open(run: Run) -> None:
    """An IKE_SA_INIT request of somebody who never comes back."""
    entropy = SystemEntropy()
    pair = KE_GROUPS[KeId.CURVE25519].generate(entropy)
    spi_i, spi_r = entropy.octets(8), bytes(8)
    exchange = ExchangeType.IKE_SA_INIT
    header = Header(spi_i, spi_r, PayloadType.NO_NEXT_PAYLOAD, exchange, 0, 0, True, False)
    proposal = parse_ike_proposal(run.case.settings["ike"])
    request = Message(header, (Sa((proposal,)), Ke(KeId.CURVE25519, pair.public), Nonce(entropy.octets(32))))
    with closing(run.hosts.call("a", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as sock:
        sock.sendto(request.encode(), ("192.0.2.2", 500))
        run.peer.wait_sas(lambda sas: [sa.state for sa in sas] == ["CONNECTING"])


def expect(run: Run) -> None:
    """The cookie on the wire, then a tunnel like any other."""
    if run.case.we_initiate:
        half_open(run)
        [stranger] = run.peer.list_sas()
    run.initiate()
    if run.case.we_initiate:
        run.peer_log_has(r"parsed IKE_SA_INIT request 0 \[ N\(COOKIE\) SA KE No ")
        run.our_log_has(r"parsed IKE_SA_INIT response 0 \[ N\(COOKIE\) \]")
        run.peer.terminate_id(stranger.unique_id)
    else:
        run.peer_log_has(r"parsed IKE_SA_INIT response 0 \[ N\(COOKIE\) \]")
        run.peer_log_has(r"generating IKE_SA_INIT request 0 \[ N\(COOKIE\) SA KE No ")
    run.established()
    run.datagrams(count=3)

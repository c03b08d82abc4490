"""What one PSK handshake costs the IKE responder, and how much of it is the cryptographic primitives' own.

    python bench/ike.py [--handshakes N] [--profile]

Both ends run in this process without sockets. The responder's time is CPU time inside its manager for the two requests
of one handshake, PSK, X25519, AES-256-GCM, one Child SA; the primitives are timed alone with the same inputs.
Medians; figures vary up to 2.5 times between runs on shared machines, so compare ratios of one run.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ikev2.core.config import ChildConfig, ConnectionConfig, Identity, Limits
from ikev2.core.manager import SaManager
from ikev2.core.types import Address
from ikev2.crypto.ke import ke_group
from ikev2.crypto.keymat import child_keymat, derive_ike_keys, psk_auth, signed_octets
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import IkeSuite, parse_esp_proposal, parse_ike_proposal
from ikev2.iana import KeId

A, B = Address("192.0.2.1", 500), Address("192.0.2.2", 500)
IKE, ESP = "aes256gcm16-prfsha256-curve25519", "aes256gcm16"


class SystemOctets:
    """Entropy from the system."""

    def octets(self, count: int, /) -> bytes:
        return os.urandom(count)


class Spis:
    """SPIs of Child SAs."""

    def __init__(self) -> None:
        self.last = 0x1000

    def allocate_spi(self, local: str, remote: str) -> int:
        self.last += 1
        return self.last

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        pass


def manager(
    local: Address, remote: Address, names: tuple[str, str | None], *, initial_contact: bool = False
) -> SaManager:
    """One end; `names` are the identities of both, None for anybody."""
    child = ChildConfig("net", esp_proposals=(parse_esp_proposal(ESP),))
    connection = ConnectionConfig(
        name="bench", local_addrs=(local.host,), remote_addrs=(remote.host,), proposals=(parse_ike_proposal(IKE),),
        local_id=Identity.parse(names[0]), remote_id=None if names[1] is None else Identity.parse(names[1]),
        psk=SecretOctets("psk", b"a pre-shared key of this bench"), children=(child,),
        send_initial_contact=initial_contact,
    )  # fmt: skip
    return SaManager(
        (connection,), SystemOctets(), Spis(), Limits(cookie_threshold=10**9, half_open_per_address=10**9)
    )


def drain(side: SaManager) -> list[bytes]:
    while side.next_event() is not None:
        pass
    return [datagram.data for datagram in side.datagrams_to_send()]


def handshake(initiator: SaManager, responder: SaManager, now: float) -> float:
    """One handshake; the responder's CPU seconds."""
    initiator.initiate("bench", B, A, now)
    spent = 0.0
    to_responder = drain(initiator)
    while to_responder:
        started = time.process_time()
        for data in to_responder:
            responder.receive_datagram(data, B, A, now)
        answers = drain(responder)
        spent += time.process_time() - started
        for data in answers:
            initiator.receive_datagram(data, A, B, now)
        to_responder = drain(initiator)
    return spent


def primitives(rounds: int) -> float:
    """The median CPU seconds of the cryptography that one handshake takes at the responder."""
    entropy, group, suite = (
        SystemOctets(),
        ke_group(KeId.CURVE25519),
        IkeSuite.from_proposal(parse_ike_proposal(IKE)),
    )
    peer = group.generate(entropy)
    nonce, message = os.urandom(32), os.urandom(240)
    spent = []
    for _ in range(rounds):
        started = time.process_time()
        pair = group.generate(entropy)
        shared = pair.shared_secret(peer.public)
        keys = derive_ike_keys(suite, nonce, nonce, shared, b"i" * 8, b"r" * 8)
        out = SkCipher(suite.encr, None, keys.sk_er, None)
        into = SkCipher(suite.encr, None, keys.sk_er, None)
        sealed = out.seal(b"a" * 32, message, bytes(8))
        into.open(b"a" * 32, sealed)
        for _ in range(2):
            psk_auth(suite.prf, b"psk", signed_octets(suite.prf, message, nonce, keys.sk_pi, b"identity"))
        child_keymat(suite.prf, keys.sk_d, nonce, nonce, 72)
        spent.append(time.process_time() - started)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handshakes", type=int, default=500)
    parser.add_argument("--profile", action="store_true", help="show where the responder's time goes")
    arguments = parser.parse_args()
    initiator, responder = manager(A, B, ("a.example", "b.example")), manager(B, A, ("b.example", "a.example"))
    for _ in range(50):
        handshake(initiator, responder, 0.0)
    profile = cProfile.Profile()
    if arguments.profile:
        profile.enable()
    spent = [handshake(initiator, responder, 0.0) for _ in range(arguments.handshakes)]
    profile.disable()
    crypto = primitives(arguments.handshakes)
    median = statistics.median(spent)
    print(
        f"responder, PSK, {IKE}, Child SA {ESP}: {median * 1e3:.2f} ms of CPU a handshake (goal 0.70, charon 1.0-1.5)"
    )
    print(f"  the primitives alone: {crypto * 1e3:.2f} ms, {100 * crypto / median:.0f} %")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        handshake(initiator, responder, 0.0)
    kept = (tracemalloc.get_traced_memory()[0] - before) / 400
    tracemalloc.stop()
    print(f"  memory of one established IKE SA with its Child SA: {kept / 1024:.1f} KiB (goal 15)")
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()

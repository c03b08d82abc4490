"""What a capture and a key log give, in memory: every message of one end, decrypted.

A Recorder takes the place of a PcapWriter and of a KeyLogWriter, and reads what it got with the decoder of
`ikev2 decode`. It holds keys: it is for tests.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ikev2.io.decode import DecodedMessage, Decoder
from ikev2.io.keylog import LoggedIkeSa, LoggedKeys

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildSaParameters
    from ikev2.core.info import IkeSaInfo
    from ikev2.core.types import Address
    from ikev2.crypto.keymat import IkeKeys
    from ikev2.crypto.suites import IkeSuite


class Recorder:
    """Takes the datagrams and the keys of one end; `messages` are what it sent and received, decrypted, in order.

    One Recorder for each end: given to both, it has every message twice.
    """

    def __init__(self) -> None:
        self._datagrams: list[tuple[int, Address, Address, bytes]] = []
        self._keys: list[LoggedIkeSa] = []

    def __repr__(self) -> str:
        return f"<Recorder of {len(self._datagrams)} datagrams>"

    @property
    def messages(self) -> list[DecodedMessage]:
        """All messages so far; decoded anew at each call, as the keys come after the first ones."""
        decoder = Decoder(self._keys)
        decoded = (decoder.decode(*datagram) for datagram in self._datagrams)
        return [message for message in decoded if message is not None]

    @property
    def summaries(self) -> list[str]:
        """All messages in one line each: `IKE_AUTH response 1 [ IDr AUTH SA TSi TSr ]`."""
        return [message.summary for message in self.messages]

    def datagram(
        self, data: bytes, local: Address, remote: Address, *, outbound: bool, time_ns: int | None = None
    ) -> None:
        """Keep a datagram."""
        source, destination = (local, remote) if outbound else (remote, local)
        self._datagrams.append((time.time_ns() if time_ns is None else time_ns, source, destination, data))

    def flush(self) -> None:
        """Nothing to do: this is for a file."""

    def ike_sa(self, info: IkeSaInfo, suite: IkeSuite, keys: IkeKeys) -> None:
        """Keep what decrypts the messages of an IKE SA."""
        octets = (keys.sk_ei.octets, keys.sk_er.octets, keys.sk_ai.octets, keys.sk_ar.octets)
        self._keys.append(LoggedIkeSa(info.spi_i, info.spi_r, suite.encr, suite.integ, LoggedKeys(*octets)))

    def child_sa(self, params: ChildSaParameters) -> None:
        """ESP packets are not for this recorder."""

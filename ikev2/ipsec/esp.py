"""The ESP transform of RFC 4303 on octets: one object per SA and direction, no socket and no clock.

What goes in and comes out is the protected payload with its Next Header; what an IP packet makes of it (tunnel or
transport mode) is the business of `ikev2.ipsec.sad`. A packet that must be dropped raises `EspDrop` with the
reason, and is counted there under the reason's name.

    OutboundEspSa.seal(payload, next_header) -> packet          RFC 4303 section 3.3
    InboundEspSa.open(packet) -> (payload, next_header)         RFC 4303 section 3.4

Where the lifetime of an SA is limited by volume, `Metered...EspSa` do the same and count what the cipher was applied to
(RFC 4301 section 4.4.2.1), so that other SAs need not.
"""

from __future__ import annotations

import os
import struct
from collections import Counter

from ikev2.core.child_sa import VolumeLimits
from ikev2.crypto.esp import Buffer, EspCipher
from ikev2.errors import IntegrityError
from ikev2.ipsec.backend import DropReason
from ikev2.ipsec.replay import ReplayWindow

NEXT_HEADER_IPV4 = 4
NEXT_HEADER_IPV6 = 41
NEXT_HEADER_NONE = 59
"""A dummy packet, to be dropped in silence. RFC 4303 section 2.6."""

TRAILER_OCTETS = 2
_MAXIMUM_32 = 0xFFFFFFFF
_MAXIMUM_64 = 0xFFFFFFFFFFFFFFFF
_SOFT_MARGIN = 1 << 24
"""So many numbers before the last one a rekey is asked for: minutes at any rate that this transform reaches."""

_pack_header = struct.Struct("!II").pack
_unpack_sequence = struct.Struct("!4xI").unpack_from
_PADDING = bytes(range(1, 256))
"""1, 2, 3, ...: RFC 4303 section 2.4."""
_TRAILERS = tuple(_PADDING[:octets] + bytes((octets,)) for octets in range(256))
"""Padding and Pad Length, by Pad Length."""


class EspDrop(Exception):
    """A packet must not pass; `reason` is the name under which it is counted."""

    def __init__(self, reason: DropReason, text: str = "") -> None:
        super().__init__(text or str(reason))
        self.reason = reason


def inner_octets_that_fit(outer_octets: int, cipher: EspCipher) -> int:
    """The largest payload whose ESP packet is at most `outer_octets` long. RFC 4303 section 2.4."""
    room = outer_octets - cipher.overhead_octets
    return room // cipher.alignment * cipher.alignment - TRAILER_OCTETS


class OutboundEspSa:
    """The sending half of an SA.

    `packets` and `octets` count sealed payloads. `soft_limit_reached` turns true once, some numbers before the
    sequence number space ends; `expired` when there is none left, and nothing can be sent any more.
    """

    __slots__ = (
        "_alignment",
        "_last",
        "_seal",
        "_soft",
        "_trailers",
        "cipher",
        "errors",
        "expired",
        "octets",
        "packets",
        "pad_to",
        "sequence",
        "soft_limit_reached",
        "spi",
    )

    def __init__(self, spi: int, cipher: EspCipher, *, esn: bool = False, sequence: int = 0) -> None:
        self.spi = spi
        self.cipher = cipher
        self.sequence = sequence
        """The number of the last packet sent; the first packet has 1. RFC 4303 section 2.2."""
        self.packets = 0
        self.octets = 0
        self.errors: Counter[str] = Counter()
        self.pad_to = 0
        """Shorter payloads get TFC padding up to this length; only where they say their own. RFC 4303 section 2.7."""
        self.soft_limit_reached = False
        self.expired = False
        self._seal = cipher.seal
        self._alignment = cipher.alignment
        self._last = _MAXIMUM_64 if esn else _MAXIMUM_32
        self._soft = self._last - _SOFT_MARGIN
        self._trailers: dict[int, bytes] = {}

    def _trailer(self, key: int) -> bytes:
        padding_octets, next_header = key >> 8, key & 0xFF
        trailer = _TRAILERS[padding_octets] + bytes((next_header,))
        self._trailers[key] = trailer
        return trailer

    def seal(self, payload: bytes, next_header: int) -> bytes:
        """The ESP packet of one payload: SPI, sequence number, IV, ciphertext, ICV.

        Raises EspDrop when the sequence numbers are used up: they never cycle (RFC 4303 section 3.3.3).
        """
        sequence = self.sequence + 1
        if sequence > self._soft:
            self._near_the_end(sequence)
        self.sequence = sequence
        octets = len(payload)
        self.packets += 1
        self.octets += octets
        if octets < self.pad_to:
            payload += bytes(self.pad_to - octets)
            octets = self.pad_to
        key = (-(octets + TRAILER_OCTETS) % self._alignment) << 8 | next_header
        trailer = self._trailers.get(key) or self._trailer(key)
        return self._seal(_pack_header(self.spi, sequence & _MAXIMUM_32), sequence, payload + trailer)

    def seal_dummy(self, octets: int) -> bytes:
        """A packet of so many random octets that the peer drops in silence, as one of `packets`. RFC 4303 section 2.6.

        Raises EspDrop as `seal` does.
        """
        return self.seal(os.urandom(octets), NEXT_HEADER_NONE)

    def _near_the_end(self, sequence: int) -> None:
        self.soft_limit_reached = True
        if sequence > self._last:
            self.expired = True
            raise EspDrop(DropReason.SEQUENCE_OVERFLOW, f"SA {self.spi:08x} has sent its last sequence number")


class InboundEspSa:
    """The receiving half of an SA; counts what passed in `packets` and `octets`.

    `soft_limit_reached` and `expired` stay false here: its time is the sender's to watch.
    """

    __slots__ = (
        "_alignment",
        "_esn",
        "_minimum",
        "_open",
        "_overhead",
        "cipher",
        "errors",
        "expired",
        "octets",
        "packets",
        "soft_limit_reached",
        "spi",
        "window",
    )

    def __init__(self, spi: int, cipher: EspCipher, *, esn: bool = False, replay_window: int = 64) -> None:
        self.spi = spi
        self.cipher = cipher
        self.window = ReplayWindow(replay_window)
        self.packets = 0
        self.octets = 0
        self.errors: Counter[str] = Counter()
        self.soft_limit_reached = False
        self.expired = False
        self._open = cipher.open
        self._esn = esn
        self._alignment = cipher.alignment
        self._overhead = cipher.overhead_octets
        self._minimum = cipher.overhead_octets + cipher.alignment

    def open(self, packet: Buffer) -> tuple[bytes, int]:
        """Payload and Next Header of one packet, from its SPI on. Raises EspDrop.

        The order is that of RFC 4303 section 3.4: replay check, ICV, window, then the padding.
        """
        octets = len(packet)
        if octets < self._minimum or (octets - self._overhead) % self._alignment:
            raise EspDrop(DropReason.MALFORMED, f"{octets} octets cannot be a packet of SA {self.spi:08x}")
        (sequence,) = _unpack_sequence(packet)
        window = self.window
        if self._esn:
            sequence = window.extended(sequence)
        if sequence <= window.top and not window.check(sequence):
            raise EspDrop(DropReason.REPLAY, f"sequence number {sequence} of SA {self.spi:08x} came again, or late")
        try:
            plaintext = self._open(packet, sequence >> 32)
        except IntegrityError as error:
            raise EspDrop(DropReason.INTEGRITY, str(error)) from None
        window.update(sequence)
        padding_octets, next_header = plaintext[-2], plaintext[-1]
        # RFC 4303 section 2.4: the receiver SHOULD inspect the padding.
        if plaintext[-2 - padding_octets : -1] != _TRAILERS[padding_octets]:
            raise EspDrop(DropReason.PADDING, f"a packet of SA {self.spi:08x} ends in {padding_octets} odd octets")
        if next_header == NEXT_HEADER_NONE:
            raise EspDrop(DropReason.DUMMY, "a dummy packet")
        end = len(plaintext) - TRAILER_OCTETS - padding_octets
        self.packets += 1
        self.octets += end
        return plaintext[:end], next_header


class _Meter:
    """What one SA has carried, against its limits. The packet that comes after a limit was reached finds that out."""

    __slots__ = ("_limits", "_octets", "_overhead", "_packets")

    def __init__(self, limits: VolumeLimits, cipher: EspCipher) -> None:
        self._limits = limits
        self._overhead = cipher.overhead_octets
        self._packets = self._octets = 0

    def note(self, esp_octets: int) -> None:
        """The cipher was applied to an ESP packet of this length: its payload, padding and trailer count."""
        self._packets += 1
        self._octets += esp_octets - self._overhead

    @property
    def soft(self) -> bool:
        """The SA is to be replaced."""
        limits = self._limits
        return self._reached(limits.soft_packets, limits.soft_octets)

    @property
    def hard(self) -> bool:
        """The SA is not to be used any more."""
        limits = self._limits
        return self._reached(limits.hard_packets, limits.hard_octets)

    def _reached(self, packets: int, octets: int) -> bool:
        return bool((packets and self._packets >= packets) or (octets and self._octets >= octets))


class MeteredOutboundEspSa(OutboundEspSa):
    """One whose lifetime is limited by volume. RFC 4301 section 4.4.2.1."""

    __slots__ = ("_meter",)

    def __init__(self, spi: int, cipher: EspCipher, limits: VolumeLimits, *, esn: bool = False) -> None:
        super().__init__(spi, cipher, esn=esn)
        self._meter = _Meter(limits, cipher)

    def seal(self, payload: bytes, next_header: int) -> bytes:
        """As of any SA; EspDrop, too, when it has carried all that it may."""
        meter = self._meter
        if meter.hard:
            self.expired = True
            raise EspDrop(DropReason.LIFETIME, f"SA {self.spi:08x} has sent all that it may")
        self.soft_limit_reached = self.soft_limit_reached or meter.soft
        packet = super().seal(payload, next_header)
        meter.note(len(packet))
        return packet


class MeteredInboundEspSa(InboundEspSa):
    """One whose lifetime is limited by volume; the two ends of an SA may count differently.

    RFC 4301 section 4.4.2.1.
    """

    __slots__ = ("_meter",)

    def __init__(
        self, spi: int, cipher: EspCipher, limits: VolumeLimits, *, esn: bool = False, replay_window: int = 64
    ) -> None:
        super().__init__(spi, cipher, esn=esn, replay_window=replay_window)
        self._meter = _Meter(limits, cipher)

    def open(self, packet: Buffer) -> tuple[bytes, int]:
        """As of any SA; EspDrop, too, when it has carried all that it may. Only what is authentic counts."""
        meter = self._meter
        if meter.hard:
            self.expired = True
            raise EspDrop(DropReason.LIFETIME, f"SA {self.spi:08x} has received all that it may")
        reached = meter.soft
        try:
            opened = super().open(packet)
        except EspDrop as drop:
            if drop.reason not in (DropReason.DUMMY, DropReason.PADDING):
                raise
            meter.note(len(packet))
            raise
        self.soft_limit_reached = self.soft_limit_reached or reached
        meter.note(len(packet))
        return opened

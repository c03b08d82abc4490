"""The C structures of `linux/xfrm.h` that travel as attributes of an SA. See `structs.py` for the conventions."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Self

from ikev2.ipsec.xfrm.structs import NO_ADDRESS
from ikev2.ipsec.xfrm.uapi import UDP_ENCAP_ESPINUDP, OffloadFlag


@dataclass(frozen=True, slots=True)
class Encap:
    """ESP in UDP of an SA, ports as the packets of that SA carry them.

    ::

        struct xfrm_encap_tmpl {            /* 24 octets */
            __u16  encap_type;
            __be16 encap_sport, encap_dport;
            xfrm_address_t encap_oa;
        };

    RFC 3948 section 2.1.
    """

    source_port: int
    destination_port: int

    SIZE: ClassVar[int] = 24

    def encode(self) -> bytes:
        return struct.pack("=H", UDP_ENCAP_ESPINUDP) + struct.pack(
            "!HH2x16s", self.source_port, self.destination_port, NO_ADDRESS
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        return cls(*struct.unpack_from("!HH", data, offset + 2))


@dataclass(frozen=True, slots=True)
class Offload:
    """The network device that does ESP, or its cipher, for an SA or a policy.

    ::

        struct xfrm_user_offload { int ifindex; __u8 flags; };      /* 8 octets */
    """

    interface_index: int
    flags: OffloadFlag = OffloadFlag(0)  # noqa: RUF009 (an IntFlag is immutable)

    def encode(self) -> bytes:
        return struct.pack("=iB3x", self.interface_index, self.flags)

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        index, flags = struct.unpack_from("=iB", data, offset)
        return cls(index, OffloadFlag(flags))


@dataclass(frozen=True, slots=True)
class ReplayEsn:
    """Sequence numbers and window of an SA, in the form that takes windows above 32 and ESN.

    ::

        struct xfrm_replay_state_esn {      /* 24 octets and the bitmap */
            unsigned int bmp_len;           /* in words of 32 bits */
            __u32 oseq, seq, oseq_hi, seq_hi, replay_window;
            __u32 bmp[];
        };

    RFC 4303 sections 2.2.1 and 3.4.3.
    """

    window: int
    bitmap: tuple[int, ...]
    output: int = 0
    input: int = 0
    output_high: int = 0
    input_high: int = 0

    @classmethod
    def of_window(cls, window: int) -> Self:
        """A fresh state with room for `window` packets."""
        return cls(window, (0,) * max(1, -(-window // 32)))

    def encode(self) -> bytes:
        return struct.pack(
            f"=6I{len(self.bitmap)}I",
            len(self.bitmap),
            self.output,
            self.input,
            self.output_high,
            self.input_high,
            self.window,
            *self.bitmap,
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        words, output, input_, output_high, input_high, window = struct.unpack_from("=6I", data, offset)
        bitmap = struct.unpack_from(f"={words}I", data, offset + 24)
        return cls(window, bitmap, output, input_, output_high, input_high)


@dataclass(frozen=True, slots=True)
class ReplayLegacy:
    """Sequence numbers of an SA without ESN and with a window of at most 32.

    ::

        struct xfrm_replay_state { __u32 oseq, seq, bitmap; };      /* 12 octets */
    """

    output: int
    input: int
    bitmap: int

    def encode(self) -> bytes:
        return struct.pack("=3I", self.output, self.input, self.bitmap)

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        return cls(*struct.unpack_from("=3I", data, offset))


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm of an SA with its key (never in the repr).

    ::

        struct xfrm_algo      { char alg_name[64]; unsigned alg_key_len; char alg_key[]; };
        struct xfrm_algo_auth { char alg_name[64]; unsigned alg_key_len; unsigned alg_trunc_len; char alg_key[]; };
        struct xfrm_algo_aead { char alg_name[64]; unsigned alg_key_len; unsigned alg_icv_len; char alg_key[]; };

    Lengths are in bits; an AEAD's key holds its salt at the end. `icv_bits` None: the first form.
    """

    name: str
    key: bytes = field(repr=False)
    icv_bits: int | None = None

    def encode(self) -> bytes:
        name = self.name.encode("ascii")
        if self.icv_bits is None:
            return struct.pack("=64sI", name, 8 * len(self.key)) + self.key
        return struct.pack("=64sII", name, 8 * len(self.key), self.icv_bits) + self.key

    @classmethod
    def parse(cls, data: bytes, *, with_icv: bool) -> Self:
        name = data[:64].split(b"\0", 1)[0].decode("ascii", "replace")
        if not with_icv:
            (bits,) = struct.unpack_from("=I", data, 64)
            return cls(name, data[68 : 68 + bits // 8])
        bits, icv = struct.unpack_from("=II", data, 64)
        return cls(name, data[72 : 72 + bits // 8], icv)

"""The knobs of `--impair` for a person: how each is written, what it does. docs/impairments-ippm.md has the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SYNTAX = "ACTION:MESSAGE:NUMBER[:ARGUMENT]"


@dataclass(frozen=True, slots=True)
class Row:
    """One action with its argument. `acts_on`: a Control message, or a test packet."""

    acts_on: str
    knob: str
    text: str

    @property
    def action(self) -> str:
        """The first word of a knob."""
        return self.knob.partition("[")[0]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"action": self.action, **asdict(self)}


ROWS = (
    Row("control", "hmac", "its HMAC is wrong, and encrypted as it should be; in open mode it is not zero"),
    Row("control", "iv", "another Client-IV or Server-IV is sent than is used"),
    Row("control", "mbz", "its first MBZ octet is not zero (0xff), under a right HMAC"),
    Row("control", "mode[:BITS]", "another Mode is chosen, or other Modes are offered (0x40000000, which has no name)"),
    Row("control", "accept[:VALUE]", "another Accept value (1)"),
    Row("control", "count[:VALUE]", "another Count in the greeting (1023, which is no power of two)"),
    Row("control", "change[:OFFSET[=HEX]]", "other octets from there on (0), or one of turned bits; right HMAC"),
    Row("control", "short[:BLOCKS]", "its last blocks of 16 octets are missing (1), under a right HMAC"),
    Row("control", "long[:BLOCKS]", "so many blocks of zeros more (1), under a right HMAC"),
    Row("control", "drop", "it is not sent; what follows it is well protected"),
    Row("control", "duplicate", "it is sent twice, each time protected in its turn"),
    Row("control", "replay", "its octets as they go out are sent twice"),
    Row("control", "truncate[:OCTETS]", "the last octets of what goes out are missing (1)"),
    Row("control", "extend[:OCTETS]", "so many zero octets follow what goes out (16)"),
    Row("control", "corrupt[:OFFSET[=HEX]]", "octets of what goes out are others, after the protection"),
    Row("test", "hmac", "the first octet of its HMAC is wrong"),
    Row("test", "mbz", "an MBZ octet is not zero (0xff), under a right HMAC; a sender's packet in open mode has none"),
    Row("test", "sequence[:NUMBER]", "another Sequence Number (0xffffffff), under a right HMAC"),
    Row("test", "multiplier", "the Multiplier of its Error Estimate is zero"),
    Row("test", "change[:OFFSET[=HEX]]", "as of a Control message: its clear text is other, and protected anew"),
    Row("test", "truncate[:OCTETS]", "its last octets are missing (1)"),
    Row("test", "extend[:OCTETS]", "so many zero octets follow it (16)"),
    Row("test", "corrupt[:OFFSET[=HEX]]", "octets of what goes out are others, after the protection"),
    Row("test", "drop", "it is lost"),
    Row("test", "duplicate", "it goes out twice"),
    Row("test", "delay[:SECONDS]", "it goes out so much later (1)"),
    Row("test", "stale", "the octets of the packet before it go out in its place"),
)  # fmt: skip

"""The knobs of `--impair` for a person: how each is written, what it does. docs/impairments.md has the same table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SYNTAX = "ACTION:EXCHANGE:DIRECTION:NUMBER[:ARGUMENT]"


@dataclass(frozen=True, slots=True)
class Row:
    """One action with its argument. `acts_on`: a datagram each time that it goes out, or a message when it is made."""

    acts_on: str
    knob: str
    text: str

    @property
    def action(self) -> str:
        """The first word of a knob."""
        return self.knob.split("[")[0].split(":")[0]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"action": self.action, **asdict(self)}


ROWS = (
    Row("datagram", "drop", "it is lost"),
    Row("datagram", "duplicate", "it goes out twice"),
    Row("datagram", "delay[:SECONDS]", "it goes out so much later; 1 when nothing is said"),
    Row(
        "datagram", "replay[:K]", "after it goes out, again, the datagram that fitted K before it (1: the last one)"
    ),
    Row(
        "datagram",
        "corrupt[:OFFSET or FIELD]",
        "all bits of one octet are turned: that at the offset (28 when nothing is said), or the last one of a field",
    ),
    Row("datagram", "truncate[:OCTETS]", "its last octets are missing (1)"),
    Row("datagram", "extend[:OCTETS]", "zero octets follow it (4)"),
    Row("datagram", "bad-icv", "all bits of its last octet are turned, which is the ICV's in a protected message"),
    Row("message", "omit:PAYLOAD", "these payloads are missing"),
    Row(
        "message",
        "add[:PAYLOAD][=HEX]",
        "one more payload, at the end, with this body; of the unknown type 200 when nothing is said",
    ),
    Row("message", "critical[:PAYLOAD][=HEX]", "the same with the critical bit"),
    Row("message", "repeat:PAYLOAD", "each of these payloads is there twice"),
    Row("message", "reorder[:PAYLOAD]", "the payloads come in reverse; or these come last"),
    Row(
        "message",
        "change:PAYLOAD[@OFFSET][=HEX]",
        "from this octet of the body on (0) there are others: those given, or one with all bits turned",
    ),
    Row("message", "cut:PAYLOAD[@OFFSET]", "the body ends there"),
    Row("message", "critical-bit:PAYLOAD", "these have the critical bit set"),
    Row("message", "reserved-bits:PAYLOAD", "these have the seven reserved bits set"),
    Row("message", "payload-length:PAYLOAD[+N or -N]", "their Payload Length is wrong by so much (4)"),
    Row("message", "spi-i[:HEX]", "another initiator's SPI: this one, or the genuine one with all bits turned"),
    Row("message", "spi-r[:HEX]", "another responder's SPI"),
    Row("message", "next-payload[:NUMBER]", "the header names another first payload (200)"),
    Row("message", "version[:MAJOR.MINOR]", "another version (3.0)"),
    Row("message", "exchange[:NUMBER]", "another exchange type (255)"),
    Row(
        "message",
        "flags[:NUMBER]",
        "these flags are turned (0x08, the Initiator flag; 0x20 is Response, 0x10 Version)",
    ),
    Row("message", "message-id[:+N, -N or N]", "another Message ID (+1)"),
    Row("message", "length[:+N, -N or N]", "another Length (+4)"),
    Row("message", "bad-padding", "the Pad Length is 255, which is more than there is, or cuts a payload"),
    Row("message", "padding[:OCTETS]", "so much more padding than is needed (32), which is right"),
    Row("message", "unprotected", "the payloads go without an Encrypted payload around them"),
)

"""The errors of ikev2: the peer's mistakes and our caller's are different exceptions.

A `ProtocolError` is the peer's: it knows the notify that RFC 7296 names for it, and the core answers with that
notify or drops the message in silence. A `LocalProtocolError` is our caller's.
RFC 7296 sections 2.21 and 3.10.1.
"""

from __future__ import annotations

from ikev2.iana import KeId, NotifyType, PayloadType


class IkeError(Exception):
    """The base of every error that ikev2 raises."""


class LocalProtocolError(IkeError):
    """Our caller asked for something that the protocol, or the state of the SA, does not allow."""


class ConfigurationError(IkeError):
    """A configuration is wrong: one line that says what, where, and what would be right."""


class DamagedCapture(ConfigurationError):
    """A capture of which a part cannot be read: what is before it has been."""


class BackendError(IkeError):
    """A Child SA backend could not do what was asked; the text is the sentence for a person."""


class ProtocolError(IkeError):
    """The peer broke the protocol. `notify_type` None means: no notify exists for it, drop in silence."""

    notify_type: NotifyType | None = None

    def __init__(self, message: str = "", *, notify_data: bytes = b"") -> None:
        super().__init__(message)
        self.notify_data = notify_data


class InvalidSyntax(ProtocolError):
    """A type, length or value is out of range. RFC 7296 section 3.10.1."""

    notify_type = NotifyType.INVALID_SYNTAX

    def __init__(self, message: str, *, offset: int | None = None, payload: PayloadType | None = None) -> None:
        where = "".join(
            (
                f" in {payload}" if payload is not None else "",
                f" at octet {offset}" if offset is not None else "",
            )
        )
        super().__init__(message + where)
        self.offset = offset
        self.payload = payload


class UnsupportedCriticalPayload(ProtocolError):
    """An unknown payload had its critical bit set; the data is its type. RFC 7296 section 2.5."""

    notify_type = NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD

    def __init__(self, payload_type: int) -> None:
        super().__init__(f"unknown critical payload {payload_type}", notify_data=bytes([payload_type]))
        self.payload_type = payload_type


class InvalidMajorVersion(ProtocolError):
    """The major version is above ours. RFC 7296 section 2.5."""

    notify_type = NotifyType.INVALID_MAJOR_VERSION


class InvalidMessageId(ProtocolError):
    """A message id lies outside the window. RFC 7296 section 2.3."""

    notify_type = NotifyType.INVALID_MESSAGE_ID


class NoProposalChosen(ProtocolError):
    """No offered proposal is acceptable. RFC 7296 section 3.10.1."""

    notify_type = NotifyType.NO_PROPOSAL_CHOSEN


class InvalidKePayload(ProtocolError):
    """The KE payload is of another group than the one chosen, which is the data. RFC 7296 section 1.2."""

    notify_type = NotifyType.INVALID_KE_PAYLOAD

    def __init__(self, wanted: KeId) -> None:
        super().__init__(f"the group wanted is {wanted}", notify_data=int(wanted).to_bytes(2, "big"))
        self.wanted = wanted


class AuthenticationFailed(ProtocolError):
    """The peer's AUTH payload does not verify, or nobody of that identity is known. RFC 7296 section 2.21.2."""

    notify_type = NotifyType.AUTHENTICATION_FAILED


class TsUnacceptable(ProtocolError):
    """No part of the offered traffic selectors is acceptable. RFC 7296 section 2.9."""

    notify_type = NotifyType.TS_UNACCEPTABLE


class SinglePairRequired(ProtocolError):
    """Each pair of addresses needs a Child SA of its own, and none was named. RFC 7296 section 2.9."""

    notify_type = NotifyType.SINGLE_PAIR_REQUIRED


class InternalAddressFailure(ProtocolError):
    """No internal address can be assigned. RFC 7296 section 3.15.4."""

    notify_type = NotifyType.INTERNAL_ADDRESS_FAILURE


class FailedCpRequired(ProtocolError):
    """The connection demands that the peer asks for an internal address. RFC 7296 section 2.19."""

    notify_type = NotifyType.FAILED_CP_REQUIRED


class TemporaryFailure(ProtocolError):
    """A request collides with one in progress. RFC 7296 section 2.25."""

    notify_type = NotifyType.TEMPORARY_FAILURE


class ChildSaNotFound(ProtocolError):
    """A rekey names a Child SA that does not exist; the data is empty, the SPI field names it. Section 2.25."""

    notify_type = NotifyType.CHILD_SA_NOT_FOUND


class NoAdditionalSas(ProtocolError):
    """No further Child SA is accepted on this IKE SA. RFC 7296 section 1.3."""

    notify_type = NotifyType.NO_ADDITIONAL_SAS


class IntegrityError(ProtocolError):
    """An ICV did not verify: the message or packet is dropped in silence. RFC 7296 section 2.21."""

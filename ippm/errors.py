"""The errors of ippm: the peer's mistakes and our caller's are different exceptions.

A `ProtocolError` is the peer's: it carries the Accept value that RFC 4656 section 3.3 has for it. A
`LocalProtocolError` is our caller's. A `ServerRefused` is neither: the server said no, and why.
"""

from __future__ import annotations


class IppmError(Exception):
    """The base of every error that ippm raises; its text is one line for a person."""


class LocalProtocolError(IppmError):
    """Our caller asked for something that the protocol, or the state of the connection, does not allow."""


class ConfigurationError(IppmError):
    """A configuration is wrong: one line that says what, where, and what would be right."""


class PortRangeExhausted(IppmError):
    """Every port of the range that we were told to bind in is taken."""


class ConnectionFailed(IppmError):
    """The control connection could not be made, or it ended before its time."""


class ProtocolError(IppmError):
    """The peer broke the protocol. `accept` is the Accept value that says so where a message can carry one."""

    accept: int = 1

    def __init__(self, message: str = "", *, accept: int | None = None) -> None:
        super().__init__(message)
        if accept is not None:
            self.accept = accept


class InvalidMessage(ProtocolError):
    """A message or packet is too short, too long, or has a value out of range. RFC 4656 section 3."""

    accept = 3


class UnexpectedMessage(ProtocolError):
    """A message is well formed but not allowed in this state. RFC 4656 section 3.4."""

    accept = 3


class IntegrityError(ProtocolError):
    """An HMAC did not verify: the message is discarded, and in Control the connection dropped.

    RFC 4656 section 6.10.
    """


class UnacceptableCount(ProtocolError):
    """The PBKDF2 Count of a greeting is no power of two, or out of our bounds. RFC 5357 section 6."""


class ServerRefused(IppmError):
    """The server answered with a non-zero Accept. `accept` is the octet as it came; `hint` says what may be behind it.

    RFC 4656 section 3.3, RFC 7717 section 5.3.
    """

    def __init__(self, accept: int, reason: str, message: str = "", hint: str = "") -> None:
        super().__init__(f"server refused: Accept {int(accept)} ({reason})" + (f"; {hint}" if hint else ""))
        self.accept = accept
        self.reason = reason
        self.message = message


class NoSecret(IppmError):
    """A KeyProvider has no secret for this peer or KeyID. `accept` is what a server answers: 1, or 6 for IKEv2.

    RFC 4656 section 3.3, RFC 7717 section 5.3.
    """

    def __init__(self, accept: int, reason: str) -> None:
        super().__init__(reason)
        self.accept = accept
        self.reason = reason


class RefuseSession(IppmError):
    """What a server's session opener raises to refuse a Request-TW-Session. RFC 5357 section 3.5."""

    def __init__(self, accept: int, reason: str) -> None:
        super().__init__(reason)
        self.accept = accept
        self.reason = reason

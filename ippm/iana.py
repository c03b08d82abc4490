"""Registries of OWAMP and TWAMP: modes, Accept values, command numbers.

An unknown number is a value, not an error: it keeps its bits or its octet, and compares equal to it.
RFC 4656 section 3, RFC 5357 section 8, RFC 7717 section 7, RFC 7718 section 3.2.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, IntFlag
from typing import Self

OWAMP_PORT = 861  # rfc4656-s2-01
"""The well-known TCP port of OWAMP-Control. RFC 4656 section 3.1."""

TWAMP_PORT = 862
"""The well-known TCP port of TWAMP-Control. RFC 5357 section 3.1."""

MINIMUM_COUNT = 1024
"""The least PBKDF2 Count that a server may send; a power of two. RFC 4656 section 3.1."""

DEFAULT_MAXIMUM_COUNT = 32768
"""The largest PBKDF2 Count that a client takes by default. RFC 5357 section 6."""


class Mode(IntFlag):
    """A bit of the Modes field of TWAMP, as its value.

    RFC 7717 section 7; bits 8 and 9 are RFC 7750 and RFC 8186.
    """

    OPEN = 1
    AUTHENTICATED = 2
    ENCRYPTED = 4
    MIXED = 8
    INDIVIDUAL_SESSION_CONTROL = 16
    REFLECT_OCTETS = 32
    SYMMETRICAL_SIZE = 64
    IKEV2_DERIVED = 128
    DSCP_ECN_MONITORING = 256
    PTP_TIMESTAMPS = 512

    @property
    def security(self) -> Mode:
        """Only the bits that choose the protection: open, authenticated, encrypted, mixed."""
        return self & SECURITY_BITS

    @property
    def keyed(self) -> Mode:
        """Only the bits that choose a protection with keys: authenticated, encrypted, mixed."""
        return self & KEYED_BITS

    @property
    def features(self) -> Mode:
        """Only the bits of what TWAMP can do beyond its security modes: RFC 5938, 6038, 7750 and 8186."""
        return self & FEATURE_BITS

    @property
    def word(self) -> str:
        """The security mode in one word: `open`, `authenticated`, `encrypted`, `mixed`, or `none`."""
        return next((name for name, bit in SECURITY_WORDS.items() if self.security == bit), "none")

    @classmethod
    def of_word(cls, word: str) -> Mode:
        """The security mode of a word or of its letter `O`, `A`, `E`, `M`. ValueError for any other text."""
        for name, bit in SECURITY_WORDS.items():
            if word.lower() in (name, name[0]) or (bit == cls.OPEN and word.lower() == "unauthenticated"):
                return bit
        raise ValueError(f"no security mode is called {word!r}: open, authenticated, encrypted, mixed")

    @classmethod
    def of_words(cls, words: str) -> Mode:
        """One or more security modes: a word, or letters as in `OAE`. ValueError for any other text."""
        modes = cls(0)
        for word in [words] if len(words) > 4 or words.lower() == "open" else list(words):
            modes |= cls.of_word(word)
        if not modes:
            raise ValueError("at least one of O, A, E, M is needed")
        return modes

    @property
    def strictest(self) -> Mode:
        """The strictest of the security modes that are set: encrypted, authenticated, mixed, open."""
        order = (Mode.ENCRYPTED, Mode.AUTHENTICATED, Mode.MIXED, Mode.OPEN)
        return next((bit for bit in order if self & bit), Mode(0))


SECURITY_WORDS = {
    "open": Mode.OPEN,
    "authenticated": Mode.AUTHENTICATED,
    "encrypted": Mode.ENCRYPTED,
    "mixed": Mode.MIXED,
}


def mode_words(modes: Mode) -> str:
    """The security modes of a value by their names, for a person; `none` without one."""
    return ", ".join(word for word, bit in SECURITY_WORDS.items() if modes & bit) or "none"


SECURITY_BITS = Mode.OPEN | Mode.AUTHENTICATED | Mode.ENCRYPTED | Mode.MIXED
KEYED_BITS = Mode.AUTHENTICATED | Mode.ENCRYPTED | Mode.MIXED

FEATURE_WORDS = {
    "session-control": Mode.INDIVIDUAL_SESSION_CONTROL,
    "reflect-octets": Mode.REFLECT_OCTETS,
    "symmetrical-size": Mode.SYMMETRICAL_SIZE,
    "dscp-ecn": Mode.DSCP_ECN_MONITORING,
    "ptp-timestamps": Mode.PTP_TIMESTAMPS,
}
"""The words of configurations for the features of TWAMP: RFC 5938, 6038 (two), 7750, 8186."""

FEATURE_BITS = (
    Mode.INDIVIDUAL_SESSION_CONTROL
    | Mode.REFLECT_OCTETS
    | Mode.SYMMETRICAL_SIZE
    | Mode.DSCP_ECN_MONITORING
    | Mode.PTP_TIMESTAMPS
)


NO_FEATURES = Mode(0)


def features_of(words: Iterable[str]) -> Mode:
    """The features of these words. ValueError for any other word."""
    features = NO_FEATURES
    for word in words:
        if word not in FEATURE_WORDS:
            raise ValueError(f"no feature is called {word!r}: {', '.join(FEATURE_WORDS)}")
        features |= FEATURE_WORDS[word]
    return features


def feature_words(features: Mode) -> str:
    """The features that are set, in words with commas between them."""
    return ", ".join(word for word, bit in FEATURE_WORDS.items() if features & bit)


OWAMP_IKEV2_DERIVED = 16
"""The bit of OWAMP-Modes for IKEv2-derived keys: bit 4, not bit 7 as in TWAMP. RFC 7718 section 3.2.4."""


class _OpenOctet(IntEnum):
    """An IntEnum that makes a pseudo-member for any octet that has no name here."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int) or not 0 <= value <= 0xFF:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    def __str__(self) -> str:
        return self.name


class Accept(_OpenOctet):
    """Values of the Accept field. RFC 4656 section 3.3; 6 is RFC 7717 section 5.3."""

    OK = 0
    FAILURE = 1
    INTERNAL_ERROR = 2
    NOT_SUPPORTED = 3
    PERMANENT_LIMITATION = 4
    TEMPORARY_LIMITATION = 5
    NO_IKEV2_SA = 6

    @property
    def interpreted(self) -> Accept:
        """The value that a receiver acts on: anything that is not registered is a 1."""
        return self if self.value in _ACCEPT_WORDS else Accept.FAILURE  # rfc4656-s3.3-02

    @property
    def words(self) -> str:
        """What the value means, for a person."""
        return _ACCEPT_WORDS[self.interpreted.value]


_ACCEPT_WORDS: dict[int, str] = {
    0: "OK",
    1: "failure, reason unspecified",
    2: "internal error",
    3: "some aspect of the request is not supported",
    4: "permanent resource limitations",
    5: "temporary resource limitations",
    6: "the server cannot find the IKEv2 SA",
}


class Command(_OpenOctet):
    """Command Numbers of TWAMP-Control (0, 2, 3 and 5 to 10), and of OWAMP-Control (0 to 4, 254 and 255).

    RFC 5357 section 8.2, RFC 5938 section 4; RFC 7718 section 3.1.4.
    """

    RESERVED = 0
    REQUEST_SESSION = 1
    START_SESSIONS = 2
    STOP_SESSIONS = 3
    FETCH_SESSION = 4
    REQUEST_TW_SESSION = 5
    EXPERIMENTATION = 6
    START_N_SESSIONS = 7
    START_N_ACK = 8
    STOP_N_SESSIONS = 9
    STOP_N_ACK = 10
    OWAMP_EXPERIMENTATION = 254
    OWAMP_RESERVED = 255

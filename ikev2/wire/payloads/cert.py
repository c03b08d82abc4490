"""Certificate and Certificate Request payloads. RFC 7296 sections 3.6 and 3.7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.iana import CertEncoding, PayloadType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

SHA1_OCTETS = 20
X509_ENCODINGS = (CertEncoding.X509_SIGNATURE, CertEncoding.HASH_URL_X509, CertEncoding.HASH_URL_BUNDLE)
HASH_AND_URL_ENCODINGS = (CertEncoding.HASH_URL_X509, CertEncoding.HASH_URL_BUNDLE)


@dataclass(frozen=True, slots=True)
class Cert(PlainPayload):
    """A certificate or what stands for one, in the form that `encoding` says. RFC 7296 section 3.6."""

    payload_type: ClassVar[PayloadType] = PayloadType.CERT
    encoding: CertEncoding
    data: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        return cls(CertEncoding(cursor.uint8()), cursor.rest())

    def encode_body(self) -> bytes:
        """Encoding and data."""
        return self.encoding.to_bytes(1, "big") + self.data

    @property
    def hash_and_url(self) -> tuple[bytes, bytes] | None:
        """The SHA-1 hash (20 octets) and the URL of a Hash and URL encoding, else None."""
        if self.encoding not in HASH_AND_URL_ENCODINGS:
            return None
        return self.data[:SHA1_OCTETS], self.data[SHA1_OCTETS:]

    def problem(self, *, sending: bool) -> str | None:
        """A Hash and URL holds a whole hash and a URL."""
        if self.encoding in HASH_AND_URL_ENCODINGS and len(self.data) <= SHA1_OCTETS:
            return f"{self.encoding} of {len(self.data)} octets"
        return None


@dataclass(frozen=True, slots=True)
class CertReq(PlainPayload):
    """A request for a certificate of `encoding`; for X.509, `data` is the SHA-1 hashes of the CAs' public keys.

    RFC 7296 section 3.7.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.CERTREQ
    encoding: CertEncoding
    data: bytes

    @classmethod
    def of(cls, authorities: tuple[bytes, ...]) -> Self:
        """A request for an X.509 certificate under one of `authorities` (20-octet hashes)."""
        return cls(CertEncoding.X509_SIGNATURE, b"".join(authorities))

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """The 20-octet hashes of an X.509 request; empty for other encodings."""
        if self.encoding not in X509_ENCODINGS:
            return ()
        return tuple(self.data[at : at + SHA1_OCTETS] for at in range(0, len(self.data), SHA1_OCTETS))

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        return cls(CertEncoding(cursor.uint8()), cursor.rest())

    def encode_body(self) -> bytes:
        """Encoding and authorities."""
        return self.encoding.to_bytes(1, "big") + self.data

    def problem(self, *, sending: bool) -> str | None:
        """Whole hashes; and the encodings that have a definition, where we are the sender."""
        if self.encoding in X509_ENCODINGS:
            if len(self.data) % SHA1_OCTETS:
                return f"{len(self.data)} octets of certification authorities are not whole SHA-1 hashes"
        elif sending:
            # rfc7296-s3.7-01
            return f"no definition of certification authorities for {self.encoding}"
        return None

"""Protection of the Encrypted payload: encryption, padding and integrity.

One `SkCipher` serves one direction of one IKE SA, for the Encrypted payload (SK) and, with the two fragment
numbers at the end of `aad`, for the Encrypted Fragment payload (SKF).

RFC 7296 section 3.14, RFC 5282, RFC 5930, RFC 7383 section 2.5, RFC 7634.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from ikev2.crypto.aead import make_aead
from ikev2.crypto.encr import Encr, EncrKind
from ikev2.crypto.entropy import Entropy
from ikev2.crypto.integ import Integ
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import IntegrityError, InvalidSyntax, LocalProtocolError

_PADDINGS = tuple(bytes(count) + bytes([count]) for count in range(16))


class SkCipher:
    """Seals and opens the body of an Encrypted payload: IV | ciphertext | ICV.

    `aad` is the message from the first octet of the IKE header to the last one before the IV, as sent: its length
    fields count the sealed body, whose length `sealed_octets` tells beforehand. For AEAD it is the associated data
    (RFC 5282 section 5.1); otherwise the ICV covers `aad | IV | ciphertext`.

    `key` has the salt of an AEAD or of AES-CTR at its end. An IV must never repeat under one key for these: take
    it from `new_iv`. LocalProtocolError when algorithms and keys do not fit.

    RFC 7296 section 3.14.
    """

    __slots__ = ("_aead", "_around", "_block", "_iv_counter", "_salt", "encr", "integ", "iv_octets")

    def __init__(
        self, encr: Encr, integ: Integ | None, key: SecretOctets, integ_key: SecretOctets | None = None
    ) -> None:
        if not encr.for_ike:
            # rfc7296-s5-02
            raise LocalProtocolError(f"{encr.keyword} cannot protect an IKE SA")
        self._aead, self._salt = make_aead(encr, integ, key, integ_key)
        self.encr = encr
        self.integ = integ
        self.iv_octets = encr.iv_octets
        self._block = encr.block_octets
        self._around = encr.iv_octets + (encr.icv_octets if integ is None else integ.icv_octets)
        self._iv_counter = 0

    def __repr__(self) -> str:
        return f"<SkCipher {self.encr.keyword}{'' if self.integ is None else '-' + self.integ.keyword}>"

    def sealed_octets(self, plaintext_octets: int) -> int:
        """The length of what `seal` gives for a plaintext of this length: IV, padding, Pad Length and ICV
        included."""
        return self._around + plaintext_octets + 1 + (-(plaintext_octets + 1) % self._block)

    def plaintext_octets(self, sealed_octets: int) -> int:
        """The longest plaintext whose sealed form fits into `sealed_octets`; negative when none does."""
        room = sealed_octets - self._around
        return room - room % self._block - 1

    def new_iv(self, entropy: Entropy) -> bytes:
        """An IV for the next message: unpredictable for CBC, a counter, which never repeats, for the others.

        RFC 7296 section 3.14, RFC 5282 section 3.1, RFC 5930 section 2.
        """
        if self.encr.kind is EncrKind.CBC:
            return entropy.octets(self.iv_octets)  # rfc7296-s3.14-03
        value = self._iv_counter
        self._iv_counter = value + 1  # rfc5282-s3.1-02
        return value.to_bytes(self.iv_octets, "big")

    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """The sealed body: IV | ciphertext of (plaintext, padding, Pad Length) | ICV."""
        # rfc7296-s3.14-05, rfc7296-s3.14-06: the least padding that completes a block.
        # rfc5930-s2-02, rfc5930-s2-03
        return self.seal_padded(aad, plaintext + _PADDINGS[-(len(plaintext) + 1) % self._block], iv)

    def seal_padded(self, aad: bytes, padded: bytes, iv: bytes) -> bytes:
        """The same for a plaintext whose padding and Pad Length are there already, right or wrong: whole blocks."""
        if len(iv) != self.iv_octets:
            raise LocalProtocolError(f"{self.encr.keyword} takes an IV of {self.iv_octets} octets, not {len(iv)}")
        return iv + self._aead.encrypt(self._salt + iv, padded, aad)

    def open(self, aad: bytes, body: bytes) -> bytes:
        """The plaintext without its padding.

        IntegrityError when the ICV does not verify (or there is no room for one); InvalidSyntax when the ICV does
        and the padding makes no sense.
        """
        if len(body) <= self._around:
            raise IntegrityError("too short for an IV, a Pad Length and an ICV")
        cut = self.iv_octets
        try:
            padded = self._aead.decrypt(self._salt + body[:cut], body[cut:], aad)
        except InvalidTag:
            raise IntegrityError("the ICV does not verify") from None
        # rfc7296-s3.14-07: any Pad Length is good as long as it leaves a plaintext; the padding itself is not
        # looked at.
        end = len(padded) - 1 - padded[-1]  # rfc5282-s3-01, rfc5930-s2-04
        if end < 0:
            raise InvalidSyntax("the Pad Length exceeds the payload")
        return padded[:end]

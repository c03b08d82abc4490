"""The Encrypted payload's protection: what is sealed opens, and nothing else does. RFC 7296 section 3.14."""

from __future__ import annotations

import hmac

import pytest
from crypto_support import CountingEntropy
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto.encr import ENCRS, Encr, EncrKind, encr
from ikev2.crypto.integ import INTEGS, Integ, integ
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import IntegrityError, InvalidSyntax, LocalProtocolError
from ikev2.iana import EncrId, IntegId

AAD = bytes(range(32))


def cipher(encr_: Encr, integ_: Integ | None, seed: str = "keys") -> SkCipher:
    entropy = CountingEntropy(seed)
    key = SecretOctets("SK_e", entropy.octets(encr_.keymat_octets))
    integ_key = None if integ_ is None else SecretOctets("SK_a", entropy.octets(integ_.key_octets))
    return SkCipher(encr_, integ_, key, integ_key)


COMBINATIONS: list[tuple[Encr, Integ | None]] = [
    (one, None if one.is_aead else other)
    for one in ENCRS.values()
    if one.for_ike
    for other in (INTEGS.values() if not one.is_aead else [INTEGS[IntegId.HMAC_SHA1_96]])
]
CIPHERS = [cipher(one, other) for one, other in COMBINATIONS]
EVERY = pytest.mark.parametrize("one", CIPHERS, ids=repr)
CBC = cipher(encr(EncrId.AES_CBC, 128), integ(IntegId.HMAC_SHA2_256_128))


@pytest.mark.req("rfc7296-s3.14-05", "rfc7296-s3.14-06")
@EVERY
def test_what_is_sealed_opens_and_has_the_foretold_length(one: SkCipher) -> None:
    entropy = CountingEntropy()
    overhead = one.iv_octets + (one.encr.icv_octets or (one.integ.icv_octets if one.integ else 0))
    for length in range(50):
        plaintext = bytes(range(length))
        body = one.seal(AAD, plaintext, one.new_iv(entropy))
        assert one.open(AAD, body) == plaintext
        assert len(body) == one.sealed_octets(length)
        # Payloads, padding and Pad Length are whole blocks, with the least padding that makes them so.
        inside = len(body) - overhead
        assert inside % one.encr.block_octets == 0
        assert 0 <= inside - length - 1 < one.encr.block_octets


@EVERY
def test_the_longest_plaintext_for_a_room_fills_it(one: SkCipher) -> None:
    for room in range(one.sealed_octets(0), one.sealed_octets(0) + 60):
        longest = one.plaintext_octets(room)
        assert longest >= 0
        assert one.sealed_octets(longest) <= room < one.sealed_octets(longest + 1)
    assert one.plaintext_octets(one.sealed_octets(0) - 1) < 0


@pytest.mark.req("rfc7296-s3.14-08")
@settings(max_examples=150)
@given(
    st.sampled_from(CIPHERS),
    st.binary(max_size=100),
    st.binary(min_size=28, max_size=60),
    st.data(),
)
def test_any_flipped_bit_of_body_or_associated_data_is_noticed(
    one: SkCipher, plaintext: bytes, aad: bytes, data: st.DataObject
) -> None:
    body = one.seal(aad, plaintext, bytes(one.iv_octets))
    whole = bytearray(aad + body)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        one.open(bytes(whole[: len(aad)]), bytes(whole[len(aad) :]))


@settings(max_examples=60)
@given(st.sampled_from(CIPHERS), st.binary(max_size=40), st.data())
def test_any_truncation_or_extension_is_noticed(one: SkCipher, plaintext: bytes, data: st.DataObject) -> None:
    body = one.seal(AAD, plaintext, bytes(one.iv_octets))
    cut = data.draw(st.integers(0, len(body) - 1))
    for changed in (body[:cut], body[cut + 1 :], body + b"\x00", b"\x00" + body):
        with pytest.raises(IntegrityError):
            one.open(AAD, changed)
    # Octets that move over the border between associated data and body. (An integrity algorithm beside the cipher
    # covers both in one: there it is the fixed layout of the headers that keeps the border in its place.)
    if one.encr.is_aead:
        with pytest.raises(IntegrityError):
            one.open(AAD + body[:1], body[1:])


@settings(max_examples=60)
@given(st.sampled_from(CIPHERS), st.binary(max_size=120))
def test_noise_raises_nothing_but_integrity_errors(one: SkCipher, noise: bytes) -> None:
    with pytest.raises(IntegrityError):
        one.open(AAD, noise)


@EVERY
def test_another_key_does_not_open_it(one: SkCipher) -> None:
    other = cipher(one.encr, one.integ, seed="other")
    with pytest.raises(IntegrityError):
        other.open(AAD, one.seal(AAD, b"payloads", bytes(one.iv_octets)))


@pytest.mark.req("rfc7296-s3.14-04")
@pytest.mark.parametrize("iv", [bytes(16), b"\xff" * 16, bytes(range(16))])
def test_any_iv_of_the_peer_is_accepted_also_twice(iv: bytes) -> None:
    for one in CIPHERS:
        body = one.seal(AAD, b"payloads", iv[: one.iv_octets])
        assert body.startswith(iv[: one.iv_octets])
        assert one.open(AAD, body) == one.open(AAD, body) == b"payloads"


@pytest.mark.req("rfc7296-s3.14-03")
def test_the_iv_of_cbc_is_fresh_entropy() -> None:
    entropy = CountingEntropy()
    expected = CountingEntropy()
    for _ in range(3):
        assert CBC.new_iv(entropy) == expected.octets(16)


@pytest.mark.req("rfc5282-s3.1-02")
@EVERY
def test_ivs_of_counter_modes_never_repeat(one: SkCipher) -> None:
    """RFC 5282 section 3.1, RFC 5930 section 2, RFC 7634 section 2: unique, whatever the entropy gives."""

    class Stuck:
        def octets(self, count: int) -> bytes:
            return bytes(count)

    if one.encr.kind is not EncrKind.CBC:
        ivs = [one.new_iv(Stuck()) for _ in range(300)]
        assert len(set(ivs)) == 300
        assert {len(iv) for iv in ivs} == {8}


def sealed_by_hand(padded: bytes) -> bytes:
    """AES-CBC and HMAC-SHA2-256-128 over given octets, straight from RFC 7296 section 3.14."""
    entropy = CountingEntropy("keys")
    key, integ_key = entropy.octets(16), entropy.octets(32)
    iv = bytes(range(16))
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    sealed = iv + encryptor.update(padded) + encryptor.finalize()
    return sealed + hmac.digest(integ_key, AAD + sealed, "sha256")[:16]


@pytest.mark.req("rfc7296-s3.14-07", "rfc7296-s3.14-08")
@pytest.mark.parametrize("pad_length", [0, 16, 17, 32, 239])
def test_any_pad_length_and_padding_that_align_are_accepted(pad_length: int) -> None:
    plaintext = b"x" * (15 - pad_length % 16)
    padding = bytes((7 * index + 1) % 256 for index in range(pad_length))
    assert CBC.open(AAD, sealed_by_hand(plaintext + padding + bytes([pad_length]))) == plaintext


def test_all_may_be_padding() -> None:
    assert CBC.open(AAD, sealed_by_hand(bytes(15) + b"\x0f")) == b""


@pytest.mark.parametrize("pad_length", [16, 17, 255])
def test_a_pad_length_beyond_the_payload_is_invalid_syntax_after_a_good_icv(pad_length: int) -> None:
    with pytest.raises(InvalidSyntax):
        CBC.open(AAD, sealed_by_hand(bytes(15) + bytes([pad_length])))


def test_half_a_block_under_a_good_icv_is_invalid_syntax() -> None:
    entropy = CountingEntropy("keys")
    entropy.octets(16)
    integ_key = entropy.octets(32)
    body = bytes(16) + b"half a block"
    with pytest.raises(InvalidSyntax):
        CBC.open(AAD, body + hmac.digest(integ_key, AAD + body, "sha256")[:16])


@pytest.mark.req("rfc5282-s3.1-01", "rfc5282-s4-01", "rfc5282-s5.1-01", "rfc5282-s5.1-02", "rfc5282-s7.1-02")
def test_aes_gcm_is_that_of_rfc_5282() -> None:
    """Salt at the end of the key, nonce = salt | IV, associated data up to the IV, no padding but the Pad Length."""
    one = cipher(encr(EncrId.AES_GCM_16, 256), None)
    keymat = CountingEntropy("keys").octets(36)
    iv = b"\x00\x00\x00\x00\x00\x00\x00\x2a"
    expected = iv + AESGCM(keymat[:32]).encrypt(keymat[32:] + iv, b"payloads\x00", AAD)
    assert one.seal(AAD, b"payloads", iv) == expected


@pytest.mark.req("rfc5282-s3.1-01", "rfc5282-s4-02", "rfc5282-s5.1-01", "rfc5282-s5.1-02", "rfc5282-s7.1-02")
@pytest.mark.req("rfc5282-s3.2-03")
@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize(
    ("number", "icv"), [(EncrId.AES_CCM_8, 8), (EncrId.AES_CCM_12, 12), (EncrId.AES_CCM_16, 16)]
)
def test_aes_ccm_is_that_of_rfc_5282(number: EncrId, icv: int, bits: int) -> None:
    """Three octets of salt at the end of the key, a nonce of eleven, an ICV of 8, 12 or 16 octets."""
    one = cipher(encr(number, bits), None)
    keymat = CountingEntropy("keys").octets(bits // 8 + 3)
    iv = b"\x00\x00\x00\x00\x00\x00\x00\x2a"
    nonce = keymat[-3:] + iv
    expected = iv + AESCCM(keymat[:-3], tag_length=icv).encrypt(nonce, b"payloads\x00", AAD)
    assert len(nonce) == 11
    assert one.seal(AAD, b"payloads", iv) == expected


@pytest.mark.req("rfc5282-s3-01", "rfc5930-s2-04")
@pytest.mark.parametrize("pad_length", [0, 1, 3, 16, 255])
@pytest.mark.parametrize("ctr", [False, True], ids=["gcm", "ctr"])
def test_any_padding_of_a_cipher_without_alignment_is_accepted(pad_length: int, ctr: bool) -> None:
    padded = b"payloads" + b"\xa5" * pad_length + bytes([pad_length])
    iv = b"\x00\x00\x00\x00\x00\x00\x00\x2a"
    entropy = CountingEntropy("keys")
    if ctr:
        one = cipher(encr(EncrId.AES_CTR, 128), integ(IntegId.HMAC_SHA2_256_128))
        keymat, integ_key = entropy.octets(20), entropy.octets(32)
        stream = Cipher(algorithms.AES(keymat[:16]), modes.CTR(keymat[16:] + iv + b"\x00\x00\x00\x01"))
        body = iv + stream.encryptor().update(padded)
        body += hmac.digest(integ_key, AAD + body, "sha256")[:16]
    else:
        one = cipher(encr(EncrId.AES_GCM_16, 128), None)
        keymat = entropy.octets(20)
        body = iv + AESGCM(keymat[:16]).encrypt(keymat[16:] + iv, padded, AAD)
    assert one.open(AAD, body) == b"payloads"


@pytest.mark.req("rfc5282-s3.2-01", "rfc5282-s3.2-02", "rfc5282-s3.2-03", "rfc5282-s3.2-04", "rfc5282-s7.3-02")
def test_icvs_of_the_combined_modes_are_of_8_12_and_16_octets_and_keys_of_128_192_and_256_bits() -> None:
    for kind in ("GCM", "CCM"):
        rows = [row for row in ENCRS.values() if row.kind.name == kind]
        assert {row.icv_octets for row in rows} == {8, 12, 16}
        assert {row.key_bits for row in rows} == {128, 192, 256}


def test_short_tags_are_prefixes_of_the_long_one() -> None:
    bodies = [
        cipher(encr(number, 128), None).seal(AAD, b"payloads", bytes(8))
        for number in (EncrId.AES_GCM_8, EncrId.AES_GCM_12, EncrId.AES_GCM_16)
    ]
    assert [len(body) for body in bodies] == [8 + 9 + 8, 8 + 9 + 12, 8 + 9 + 16]
    assert bodies[2].startswith(bodies[1])
    assert bodies[1].startswith(bodies[0])


@pytest.mark.req("rfc5930-s2-01", "rfc5930-s2-02", "rfc5930-s2-03")
def test_aes_ctr_counts_blocks_from_one() -> None:
    """RFC 5930 section 2, RFC 3686 section 4: nonce | IV | block counter."""
    one = cipher(encr(EncrId.AES_CTR, 192), integ(IntegId.HMAC_SHA1_96))
    keymat = CountingEntropy("keys").octets(28)
    stream = Cipher(algorithms.AES(keymat[:24]), modes.CTR(keymat[24:] + b"IVIVIVIV" + b"\x00\x00\x00\x01"))
    ciphertext = stream.encryptor().update(b"payloads\x00")
    assert one.seal(AAD, b"payloads", b"IVIVIVIV")[8:-12] == ciphertext


def test_fragment_numbers_are_covered_as_part_of_the_associated_data() -> None:
    """RFC 7383 section 2.5: the associated data reaches to the end of Total Fragments."""
    for one in CIPHERS:
        body = one.seal(AAD + b"\x00\x01\x00\x02", b"first half", bytes(one.iv_octets))
        assert one.open(AAD + b"\x00\x01\x00\x02", body) == b"first half"
        with pytest.raises(IntegrityError):
            one.open(AAD + b"\x00\x02\x00\x02", body)


@pytest.mark.req("rfc7296-s5-02")
def test_no_ike_sa_without_encryption_or_integrity() -> None:
    null = encr(EncrId.NULL)
    sha256 = integ(IntegId.HMAC_SHA2_256_128)
    with pytest.raises(LocalProtocolError, match="cannot protect an IKE SA"):
        SkCipher(null, sha256, SecretOctets("SK_e", b""), SecretOctets("SK_a", bytes(32)))
    with pytest.raises(LocalProtocolError, match="needs an integrity algorithm"):
        SkCipher(encr(EncrId.AES_CBC, 128), None, SecretOctets("SK_e", bytes(16)), None)


def test_keys_have_to_fit_the_algorithms() -> None:
    gcm, cbc, sha1 = encr(EncrId.AES_GCM_16, 128), encr(EncrId.AES_CBC, 128), integ(IntegId.HMAC_SHA1_96)
    sixteen, twenty = SecretOctets("k", bytes(16)), SecretOctets("k", bytes(20))
    for arguments in (
        (gcm, None, sixteen, None),
        (gcm, sha1, twenty, twenty),
        (cbc, sha1, twenty, twenty),
        (cbc, sha1, sixteen, sixteen),
        (cbc, sha1, sixteen, None),
    ):
        with pytest.raises(LocalProtocolError):
            SkCipher(*arguments)
    with pytest.raises(LocalProtocolError):
        SkCipher(gcm, None, twenty).seal(AAD, b"", bytes(12))
    SkCipher(gcm, None, twenty, SecretOctets("SK_ai", b""))


def test_algorithms_by_number() -> None:
    assert encr(EncrId.AES_GCM_16, 256).keymat_octets == 36
    assert encr(EncrId.AES_CCM_8, 128).keymat_octets == 19
    assert encr(28).keymat_octets == 36
    for number in (EncrId.TRIPLE_DES, EncrId.DES, 999):
        with pytest.raises(UnknownAlgorithm):
            encr(number)
    for number in (IntegId.NONE, IntegId.HMAC_MD5_96, 999):
        with pytest.raises(UnknownAlgorithm):
            integ(number)


@pytest.mark.req("rfc7296-s2.13-01", "rfc7296-s3.3.5-04", "rfc7296-s3.3.5-05", "rfc5282-s7.3-01")
def test_aes_has_to_name_its_key_length_and_chacha20_must_not() -> None:
    for row in ENCRS.values():
        if row.key_bits is not None:
            assert row.key_bits == 8 * row.key_octets
            with pytest.raises(UnknownAlgorithm):
                encr(row.id)
            with pytest.raises(UnknownAlgorithm):
                encr(row.id, 64)
    with pytest.raises(UnknownAlgorithm):
        encr(EncrId.CHACHA20_POLY1305, 256)

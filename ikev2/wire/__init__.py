"""Pure codecs of RFC 7296 section 3: no cryptography, no state."""

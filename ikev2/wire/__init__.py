"""Pure codecs of IKEv2 messages: no state, no cryptography, no I/O. RFC 7296 section 3.

`message` reads and writes whole messages, `payloads` holds a class for each payload, `rules` says which payloads belong
in which message. Every parser raises only `InvalidSyntax`; every encoder only `LocalProtocolError`.
"""

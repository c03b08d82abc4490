"""What a capture holds of OWAMP and TWAMP: `ippm decode`.

It stands on the codecs, the cryptography and the key log of `ippm`, and knows no role: no state of a client or a
server is in it, so what a role would refuse can still be read. Reading of captures and of IP packets is here, and not
shared with `ikev2 decode`, because neither package imports the other and a fourth package for it would be public.
"""

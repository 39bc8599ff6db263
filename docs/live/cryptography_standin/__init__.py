"""A stand-in for `cryptography` in a browser, where there is no wheel of it: the parts that the chapters use.

Elliptic curves and Ed25519 come from `ecdsa`, certificates from `asn1crypto`, both in pure Python. What is signed here
is equal, byte for byte, to what `cryptography` signs with the same key (RFC 6979, RFC 8032). The time that a signature
takes tells of the key: this is for lessons, and not for secrets.
"""

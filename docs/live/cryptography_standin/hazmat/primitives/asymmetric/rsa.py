"""RSA, of which there is no key here."""


class RSAPublicKey:
    """No key is one of these."""


class RSAPrivateKey:
    """No key is one of these."""


def generate_private_key(public_exponent: int, key_size: int) -> RSAPrivateKey:
    """NotImplementedError: the libraries of this stand-in know elliptic curves alone."""
    raise NotImplementedError("there are no RSA keys in the browser: run this cell in Jupyter")

"""Names of things in certificates."""


class NameOID:
    """Parts of a name."""

    COMMON_NAME = "common_name"


class ExtendedKeyUsageOID:
    """What a certificate is for."""

    CODE_SIGNING = "code_signing"
    CLIENT_AUTH = "client_auth"
    SERVER_AUTH = "server_auth"

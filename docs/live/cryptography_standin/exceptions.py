"""What is raised for a signature that does not fit."""


class InvalidSignature(Exception):
    """The signature is none over this content by this key."""

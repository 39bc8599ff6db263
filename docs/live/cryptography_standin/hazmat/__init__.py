"""See the stand-in for `cryptography`."""

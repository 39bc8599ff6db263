"""Over-the-air firmware updates for IoT devices: Notify, Download, Verify, Install."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

__version__ = "0+source"  # a source tree on the path; what is installed has settings.ini's version:
with suppress(PackageNotFoundError):
    __version__ = version("coreota")

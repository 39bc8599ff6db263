__version__ = "0.0.1"
"""Over-the-air firmware updates for IoT devices: Notify, Download, Verify, Install."""

from importlib.metadata import version

__version__ = version("coreota")

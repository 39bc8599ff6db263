"""A real PostgreSQL on a port of its own."""

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import free_port, wait_for_port


@contextmanager
def running_postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL without a password; missing, it fails in CI and skips elsewhere."""
    folders = [*sorted(glob.glob("/usr/lib/postgresql/*/bin")), ""]
    found = [shutil.which("postgres", path=folder or None) for folder in folders]
    binary = next((one for one in found if one), None)
    if binary is None:
        advice = "PostgreSQL is not installed: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(advice)
        pytest.skip(advice)
    bin_folder = Path(os.path.realpath(binary)).parent
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="coreota-pg-") as folder:
        data, port = Path(folder) / "data", free_port()
        if as_user:
            shutil.chown(folder, "postgres")
        initdb = [str(bin_folder / "initdb"), "-D", str(data), "-U", "coreota", "-A", "trust", "--no-sync"]
        subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd=folder)
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(Path(folder) / "log", "wb") as log:
            command = [*as_user, str(bin_folder / "postgres"), "-D", str(data), *options]
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for_port(port, server)
            url = f"postgresql+psycopg://coreota@127.0.0.1:{port}/postgres"
            wait_until_ready(url)
            yield url
        finally:
            server.terminate()
            server.wait(10)


def wait_until_ready(url: str) -> None:
    """Until it takes connections."""
    import time

    import psycopg

    for _ in range(200):
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("PostgreSQL takes no connections")


def fresh_database(url: str, name: str) -> str:
    """The URL of a new, empty database on that server."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type, unused-ignore]
    return url.rsplit("/", 1)[0] + "/" + name

"""What several tests need, made once for all of them: real mosquittos, a real PostgreSQL, the site."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from brokers import CONFIG, TlsBroker, free_port, make_tls_broker, running_mosquitto
from databases import fresh_database, running_postgresql
from hypothesis import settings
from programs import missing

from coreota.provider.books import Store
from coreota.provider.memory import MemoryStore
from coreota.provider.sqlstore import SqlStore

settings.register_profile("patient", deadline=None)  # time decides no test
settings.load_profile("patient")
NUMBERS = count()


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a mosquitto that takes everybody."""
    port = free_port()
    with running_mosquitto(tmp_path_factory.mktemp("mosquitto") / "conf", CONFIG.format(port=port), port):
        yield port


@pytest.fixture(scope="session")
def mosquitto_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """A mosquitto with mutual TLS."""
    broker, config = make_tls_broker(tmp_path_factory.mktemp("tls"))
    with running_mosquitto(broker.folder / "mosquitto.conf", config, broker.port):
        yield broker


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL."""
    with running_postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return fresh_database(request.getfixturevalue("postgresql"), f"test{next(NUMBERS)}")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store, once of each kind."""
    if request.param == "memory":
        yield MemoryStore()
        return
    url = "sqlite://"
    if request.param == "postgresql":
        url = fresh_database(request.getfixturevalue("postgresql"), f"test{next(NUMBERS)}")
    with SqlStore(url) as opened:
        yield opened


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once by the one command."""
    if importlib.util.find_spec("myst_nb") is None or importlib.util.find_spec("furo") is None:
        missing("the site's builder is not installed: pip install 'coreota[docs]'")
    folder = tmp_path_factory.mktemp("site") / "html"
    done = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "docs/build.py", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder

"""What several tests need: real mosquittos, started once for all of them."""

from collections.abc import Iterator

import pytest
from brokers import CONFIG, TlsBroker, free_port, make_tls_broker, running_mosquitto


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

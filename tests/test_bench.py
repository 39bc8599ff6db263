"""The benchmarks give rows of the right shape, whatever the machine's speed; no test here judges a speed."""

import json
import shutil
from typing import Any

import pytest

from coreota.benchtool import BENCHES, decode_rows, tables
from coreota.benchworkers import Load
from coreota.brokerbench import broker_rows, race_row, stall_rows
from coreota.cli import main
from coreota.devicebench import memory_rows, profile_rows
from coreota.errors import LocalOtaError
from coreota.mosquitto import Address, find_mosquitto, mosquitto

BROKER = {
    "bench", "block_size", "codec", "tls", "blocks", "rounds", "goodput", "reference", "ratio",
    "device_us", "provider_us", "subscriber_us", "publisher_us",
}  # fmt: skip


def test_decoding() -> None:
    """Each codec at each size; the recorded figures stand where they belong."""
    rows = decode_rows(quick=True, sizes=(256, 4096))
    assert [(row["codec"], row["block_size"]) for row in rows] == [
        ("cbor", 256), ("cbor", 4096), ("json", 256), ("json", 4096),
    ]  # fmt: skip
    assert [row["c_library"] is None for row in rows] == [True, False, True, False]
    assert all(0 < row["blocks_per_second"] < row["copies"] for row in rows)
    assert all(row["ratio"] > 0 for row in rows)


def test_memory() -> None:
    """The peak is more than the pool, and the process holds more than that."""
    rows = memory_rows(sizes=(8192, 262_144))
    assert [row["image_size"] for row in rows] == [8192, 262_144]
    assert all(row["pool"] < row["peak"] < 1_000_000 < row["process"] for row in rows)
    assert rows[0]["ratio"] == 1.0


def test_profile() -> None:
    """Every part of the device has its share, and together they are the whole."""
    rows = profile_rows(quick=True, block_sizes=(16_384,))
    assert {"decode", "schedule", "flash", "digest"} < {row["part"] for row in rows}
    assert abs(sum(row["ratio"] for row in rows) - 1) < 0.01
    assert all(row["us"] > 0 for row in rows)


@pytest.mark.parametrize("tls", [False, True])
def test_a_race(tls: bool) -> None:
    """Two loads, two rounds: all blocks arrive, and every figure is there."""
    loads = [Load(4096, size=100_000, tls=tls), Load(1024, "json", 20_000, tls)]
    rows = broker_rows(loads, rounds=2)
    assert [set(row) == BROKER for row in rows] == [True, True]
    assert [(row["block_size"], row["codec"], row["tls"]) for row in rows] == [(4096, "cbor", tls), (1024, "json", tls)]
    assert [row["blocks"] for row in rows] == [25, 20]
    assert all(min(row["goodput"], row["reference"], row["ratio"]) > 0 for row in rows)


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    """Not the ratio of the medians."""

    def pair(bare: float, ours: float) -> tuple[dict[str, float], dict[str, float]]:
        return {"seconds": bare, "subscriber": 1, "publisher": 1}, {"seconds": ours, "device": 1, "provider": 1}

    row = race_row(Load(4096, size=65_536), [pair(1, 2), pair(10, 10), pair(3, 4)])
    assert row["ratio"] == 0.75
    assert row["goodput"] == row["blocks"] * 4096 // 4


def test_the_stall() -> None:
    """With and without TCP_NODELAY, for each number of messages."""
    rows = stall_rows(asks=3, counts=(1, 2))
    assert [(row["messages"], row["nodelay"]) for row in rows] == [(1, True), (1, False), (2, True), (2, False)]
    assert [row["ratio"] for row in rows if row["nodelay"]] == [1.0, 1.0]


def test_somebody_elses_broker() -> None:
    """An address is enough."""
    with mosquitto() as address:
        rows = broker_rows([Load(4096, size=10_000)], rounds=1, address=Address(address.host, address.port))
    assert rows[0]["blocks"] == 3


def test_no_broker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is said, with the line that brings it."""
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(LocalOtaError, match="apt-get install mosquitto"):
        find_mosquitto()
    assert main(["bench", "broker", "--quick"]) == 2
    assert "apt-get install mosquitto" in capsys.readouterr().err


def test_a_worker_that_fails_says_why() -> None:
    """Nobody listens at that address."""
    with pytest.raises(LocalOtaError, match=r"the provider: .*127\.0\.0\.1:1"):
        broker_rows([Load(4096, size=10_000)], rounds=1, address=Address("127.0.0.1", 1))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows for a program, a table for people."""
    assert main(["bench", "decode", "--quick", "--block-size", "256", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(row["bench"], row["codec"], row["block_size"]) for row in rows] == [
        ("decode", "cbor", 256),
        ("decode", "json", 256),
    ]
    assert main(["bench", "decode", "--quick", "--block-size", "256"]) == 0
    assert capsys.readouterr().out.split("\n")[1].split() == ["decode"]
    assert {"link", "decode", "memory", "broker"} <= set(BENCHES)


def test_tables_of_rows_with_other_names_are_tables_of_their_own() -> None:
    """Each has a head of its own."""
    lines = tables([{"bench": "a", "x": 1}, {"bench": "a", "y": 2}, {"bench": "a", "x": 1000}])
    assert lines == ["\na", "    x", "    1", "1,000", "\na", "y", "2"]

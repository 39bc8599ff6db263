"""Stores: the old content counts until the new one is whole and committed, wherever the power fails."""

import pytest

from coreota.errors import LocalOtaError
from coreota.flash import NorFlash, PowerCut
from coreota.parser import OtaFile, SignatureAlgorithm
from coreota.store import FlashStore, label, read_label


def file(content: bytes) -> OtaFile:
    """A file with a signature of its own."""
    return OtaFile(1, "/gains", len(content), "/cert.pem", b"signature of " + content, SignatureAlgorithm.SHA256_ECDSA)


def change(store: FlashStore, content: bytes) -> None:
    """All that an update does."""
    if not store.holds(file(content)):
        store.prepare(len(content))
        for offset in range(0, len(content), 256):
            store.write(offset, content[offset : offset + 256])
        store.commit(file(content))


def test_one_after_the_other() -> None:
    """Each change replaces the one before; repeating one does nothing."""
    flash = NorFlash(8 * 512, 512)
    store = FlashStore(flash)
    assert (store.content(), store.capacity) == (b"", 3 * 512)
    for number in range(5):
        change(store, b"%d" % number * 700)
        assert store.content() == b"%d" % number * 700
    operations = flash.operations
    change(store, b"4" * 700)
    store.commit(file(b"4" * 700))
    assert flash.operations == operations
    assert FlashStore(flash).content() == b"4" * 700


@pytest.mark.parametrize("torn", [0.0, 0.3, 0.7, 1.0])
def test_cut_at_every_operation(torn: float) -> None:
    """The old or the new, whole; and the next try always gets to the new."""
    old, new = b"old" * 300, b"new" * 400
    cuts = 0
    while True:
        flash = NorFlash(8 * 512, 512)
        change(FlashStore(flash), old)
        flash.cut_after(cuts, torn=torn)
        try:
            change(FlashStore(flash), new)
        except PowerCut:
            flash.power_on()
        else:
            break
        cuts += 1
        assert FlashStore(flash).content() in (old, new)
        change(FlashStore(flash), new)
        assert FlashStore(flash).content() == new
    assert cuts == 1 + 3 + 5 + 1  # label erased, three sectors erased, five blocks and a label written


def test_labels() -> None:
    """No part of a label is one, nor one with a bit changed."""
    whole = label(3, file(b"x"))
    assert read_label(whole)[:2] == (3, 1)
    assert all(read_label(whole[:n] + b"\xff" * (32 - n))[0] == 0 for n in range(32))
    flips = (
        bytes(b ^ (1 << bit) if i == at else b for i, b in enumerate(whole)) for at in range(32) for bit in range(8)
    )
    assert all(read_label(flip)[0] == 0 for flip in flips)


def test_limits() -> None:
    """What does not fit is refused before anything is erased."""
    flash = NorFlash(8 * 512, 512)
    store = FlashStore(flash)
    for size in (0, 3 * 512 + 1):
        with pytest.raises(LocalOtaError, match=f"a file of {size} bytes"):
            store.prepare(size)
    with pytest.raises(LocalOtaError, match="room for"):
        store.write(3 * 512 - 8, bytes(16))
    assert flash.operations == 0
    with pytest.raises(LocalOtaError, match="a store in 3 sectors"):
        FlashStore(NorFlash(3 * 512, 512))

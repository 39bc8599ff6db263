"""Record what detools makes, and that it reads what we make; needs `pip install detools==0.53.0 coreota[patch]`.

detools has no wheels and needs compilers for C and C++, so the tests use what was recorded: for each compression a
patch that detools made of old.bin and new.bin, and one of ours that detools has applied, without our head.
"""

import io
from pathlib import Path
from random import Random

import detools

from coreota.patch import HEAD_SIZE, SequentialPatch

HERE = Path(__file__).parent


def pair() -> tuple[bytes, bytes]:
    """Two builds of something: changed bytes, a new part, a moved part."""
    random = Random(7)
    words = [random.randbytes(random.randrange(3, 9)) for _ in range(150)]
    old = b"".join(random.choice(words) for _ in range(700))
    new = bytearray(old)
    for _ in range(25):
        new[random.randrange(len(new))] = random.randrange(256)
    return old, bytes(new[:900]) + random.randbytes(120) + bytes(new[2200:]) + bytes(new[1000:1500])


def main() -> None:
    old, new = pair()
    (HERE / "old.bin").write_bytes(old)
    (HERE / "new.bin").write_bytes(new)
    for compression in ("none", "lzma", "heatshrink"):
        theirs = io.BytesIO()
        detools.create_patch(io.BytesIO(old), io.BytesIO(new), theirs, compression=compression)
        (HERE / f"detools-{compression}.patch").write_bytes(theirs.getvalue())
        ours, made = SequentialPatch(compression).make(old, new)[HEAD_SIZE:], io.BytesIO()
        detools.apply_patch(io.BytesIO(old), io.BytesIO(ours), made)
        assert made.getvalue() == new, compression
        (HERE / f"coreota-{compression}.patch").write_bytes(ours)


if __name__ == "__main__":
    main()

"""Writes so many bytes to its output and their sha256 to a file: `writer.py random|one-line|numbered BYTES DIGEST PAUSE_S CODE`."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
import time
from collections.abc import Iterator

PIECE = 256 * 1024


def pieces(kind: str) -> Iterator[bytes]:
    numbers, chance = itertools.count(), random.Random(7)
    while True:
        if kind == "random":  # NUL, invalid UTF-8 and all the rest
            yield chance.randbytes(PIECE)
        elif kind == "one-line":
            yield b"no newline \xff\x00 " * (PIECE // 14)
        else:
            yield b"".join(b"%07d\n" % next(numbers) for _ in range(PIECE // 8))


def main(kind: str, size: str, digest: str, pause_s: str, code: str) -> int:
    left, told = int(size), hashlib.sha256()
    for piece in pieces(kind):
        data = piece[:left]
        told.update(data)
        left -= len(data)
        while data:
            data = data[os.write(1, data) :]
        if not left:
            break
        time.sleep(float(pause_s))
    with open(digest, "w") as file:
        file.write(told.hexdigest())
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

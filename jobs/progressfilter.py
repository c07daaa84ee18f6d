"""Leaves the lines out of a log that are a progress bar and nothing else; everything else is kept, as it stands.

A bar that is redrawn over itself (carriage returns) is many such lines. A bar with a message behind it leaves its message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_LINE = 64 * 1024
"""What goes on for longer is no bar, and is passed on in pieces."""

_ESCAPES = re.compile(rb"\x1b\[[0-9;:?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00\x08\x0e\x0f]")
_BLOCK = r"█▉▊▋▌▍▎▏▐░▒▓━╸╺─╴╶■□▰▱⣿⡿⠿●○▪▫"
_NUMBER = r"[\d?][\d.,]*\s?[kKMGTPiIbB]{0,3}"
_COUNT = rf"{_NUMBER}(?:/\s?{_NUMBER})?"
_DRAWN = rf"[#\d\s=>.\-{_BLOCK}]*"
_DESCRIPTION = r"(?:[^|\[\]%\n]{0,80}?[:\s])?"
_BARS = (
    # tqdm and what draws like it: `desc:  45%|####   | 450/1000 [00:31<00:40, 13.1it/s, loss=0.35]`
    rf"{_DESCRIPTION}\s*\d{{1,3}}(?:\.\d+)?%\s*\|{_DRAWN}\|\s*{_COUNT}(?:\s*\[[^\]\n]*\])?",
    rf"{_DESCRIPTION}\s*\d{{1,3}}(?:\.\d+)?%\s*\|{_DRAWN}\|(?:\s*\[[^\]\n]*\])?",
    rf"{_DESCRIPTION}\s*\d{{1,3}}(?:\.\d+)?%\s*\[[#=>.\-\s{_BLOCK}]*\](?:\s*{_COUNT})?(?:\s*[\d:<,.\s\w/]*)?",
    # tqdm without a total: `450it [00:31, 13.1it/s]`
    rf"{_DESCRIPTION}\s*\d+\s?\w{{1,8}}\s\[\d[\d:]*,\s[^\]\n]*\]",
    # keras: `100/600 [====>.....] - ETA: 5s - loss: 0.3`, and its newer `100/600 ━━━━━ 5s 5ms/step - loss: 0.3`
    r"\s*\d+/(?:\d+|Unknown)\s*\[[=>.]+\]\s*-\s*ETA:[^\n]*",
    rf"\s*\d+/(?:\d+|Unknown)\s+[━{_BLOCK}]{{3,}}[^\n]*?\d+s\s+\d+\w+/step(?:\s-\s[^\n]*)?",
    # rich, pip, uv: `Working... ━━━━━━╸━━━ 40% 0:00:05`, `   ━━━━━━ 1.2/3.4 MB 5.6 MB/s eta 0:00:01`
    rf"[^\n|]{{0,80}}?[{_BLOCK}]{{5,}}\s*[\d.,%/\s:kKMGTiBbs\-<>?eta()]*",
    # wget: ` 50K .......... .......... 12% 1.2M 3s`
    r"\s*\d+K(?:\s[. ]{10,})+\s*\d{1,3}%\s+[\d.,]+[KMG]?\s*[\dhms.=]*",
    # curl's table
    r"\s*(?:\d{1,3}\s+[\d.]+[kKMG]?\s+){3}[\d.]+[kKMG]?\s+[\d.]+[kKMG]?\s+(?:[\d:\-]+\s+){3}[\d.]+[kKMG]?",
    # counters: `45%`, `Progress: 45.3 %`, `Downloading... 12%`, `[#####     ] 45%`
    r"\s*(?:progress|downloading|loading|processing|extracting|uploading|preparing|done)?[\s:.…]*\(?\d{1,3}(?:\.\d+)?\s?%\)?"
    r"\s*(?:done|complete|completed)?[\s.]*",
    rf"\s*[^\[\n]{{0,40}}\[[#=>.\-\s{_BLOCK}]{{5,}}\]\s*\d{{1,3}}(?:\.\d+)?\s?%[^\n]{{0,40}}",
)
_BAR = re.compile("|".join(f"(?:{bar})" for bar in _BARS), re.IGNORECASE)
_NOT_NEWS = re.compile(r"[\s\d.,:%|/\[\]<>?#=\-+*()]*(?:it/s|s/it|B/s|eta)?[\s\d.,:%|/\[\]<>?]*", re.IGNORECASE)
_HINT = re.compile(rf"%|\d/(?:\d|Unknown)|it/s|s/it|[{_BLOCK}]{{5}}|\d:\d\d", re.IGNORECASE)


def news_of(line: str) -> str | None:
    """What a line says besides its progress bar: all of it where it has none, what stands behind a bar, None where nothing does."""
    if not _HINT.search(line) or not line.strip():
        return line
    found = _BAR.match(line)
    if found is None:
        return line
    rest = line[found.end() :]
    return None if _NOT_NEWS.fullmatch(rest) else rest.strip()


def without_progress(pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines of a log that say something, each with its line end; colours and cursor movements are left out."""
    for line in _lines(pieces):
        text = _ESCAPES.sub(b"", line).decode(errors="replace")
        news = news_of(text)
        if news is not None:
            yield f"{news}\n"


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Ended by a line feed, or by the carriage return of something that is drawn over; what is empty between the two is no line."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        held = data[-1:] if data.endswith(b"\r") else b""  # The line feed that belongs to it may come next.
        *whole, rest = re.split(rb"(\r\n|\n|\r)", data[: len(data) - len(held)])
        rest += held
        for line, end in zip(whole[::2], whole[1::2], strict=True):
            if line or end != b"\r":
                yield line
        while len(rest) > LONGEST_LINE:
            yield rest[:LONGEST_LINE]
            rest = rest[LONGEST_LINE:]
    if rest:
        yield rest

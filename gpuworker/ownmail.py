"""What a training wrote into AUTOTRAINER_MAIL, to change the letter about it. Read once, when its tree is empty.

It is the training's own file, so it may be anything: a link, a pipe, a folder, without end. Standard library only.
"""

from __future__ import annotations

import enum
import os
import stat
from pathlib import Path

NAME = "mail.json"
"""In the attempt's directory."""
LARGEST_BYTES = 64 * 1024


class MailFault(enum.StrEnum):
    """Why it could not be read."""

    NO_FILE = "no_file"
    """A link, a folder, a pipe."""
    TOO_LARGE = "too_large"
    NO_TEXT = "no_text"
    """Not UTF-8."""
    UNREADABLE = "unreadable"


def read(folder: Path) -> tuple[str, str]:
    """Its text and the fault, one of the two; both empty where it wrote nothing. Waits for nobody who would write."""
    try:
        fd = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "", ""
    except OSError:
        return "", MailFault.NO_FILE if (folder / NAME).is_symlink() else MailFault.UNREADABLE
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "", MailFault.NO_FILE
        data = os.pread(fd, LARGEST_BYTES + 1, 0)
    except OSError:
        return "", MailFault.UNREADABLE
    finally:
        os.close(fd)
    if len(data) > LARGEST_BYTES:
        return "", MailFault.TOO_LARGE
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return "", MailFault.NO_TEXT

"""What is said to one person about one thing, whichever way it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attachment:
    name: str
    """A plain short ASCII name."""
    content_type: str
    data: bytes
    inline_id: str = ""
    """By which the HTML shows it, where it is a picture."""


@dataclass(frozen=True, slots=True)
class Letter:
    subject: str
    """One line."""
    text: str
    html: str
    markdown: str
    attachments: tuple[Attachment, ...] = ()
    chat: str = ""
    """Short, and plain text."""


class NotSent(Exception):
    """The text says why, as a sentence. `for_good`: trying again would change nothing. `unsure`: it may have been taken all the same."""

    def __init__(self, message: str, *, for_good: bool = False, unsure: bool = False) -> None:
        super().__init__(message)
        self.for_good, self.unsure = for_good, unsure

"""Which ways out there are: one module for each, all of one shape (`configured`, `send`)."""

from __future__ import annotations

from types import ModuleType

from jobs.notifications import chat, eminder, smtp

MAIL: dict[str, ModuleType] = {"smtp": smtp, "eminder": eminder}
"""In the order of preference for a mail address: an SMTP server says whether it took a mail, EMinder only that it will try."""
BY_NAME: dict[str, ModuleType] = MAIL | {"chat": chat}


def for_mail() -> str:
    """The channel for mail addresses; empty where none is set up."""
    return next((name for name, channel in MAIL.items() if channel.configured()), "")

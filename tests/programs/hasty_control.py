"""The control worker with short intervals, so that a test need not wait for its patience: `python hasty_control.py worker …`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from autotrainer_site.celery import app

if __name__ == "__main__":
    import django

    django.setup()
    from jobs import bootsteps, reconcile

    reconcile.OFFER_AGAIN_S = 2.0
    bootsteps.RECONCILE_EVERY_S = 1.0  # type: ignore[attr-defined]
    app.start(argv=sys.argv[1:])

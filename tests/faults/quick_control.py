"""The control plane's Celery app with shorter waits (tests/faults/clocks.py)."""

from __future__ import annotations

import django

from autotrainer_site.celery import app
from tests.faults.clocks import hurry

__all__ = ["app"]

django.setup()

from jobs import bootsteps, ingest, reconcile, settlement  # noqa: E402 - Django must be set up before

hurry(bootsteps, RECONCILE_EVERY_S=0.7, LEASE_S=2.0)  # the patience of a leader that is cut off from Redis, not the lease itself
hurry(ingest, HOSTS_EVERY_S=0.5)
hurry(reconcile, EVERY_S=0.7, OFFER_AGAIN_S=1.5, OFFERS=40, MISSING_S=6.0, GONE_MARGIN_S=1.0)
hurry(settlement, FAULT_DELAY_S=0.3)

"""The control plane's wiring: settings, URLs, ASGI and Celery. No domain logic."""

from autotrainer_site.celery import app as celery_app

__all__ = ["celery_app"]

"""The control plane's Celery app: `celery -A autotrainer_site …`."""

from __future__ import annotations

import os

from celery import Celery

from gpuworker import settings as environment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autotrainer_site.settings")

app = Celery("autotrainer_site")
app.config_from_object(environment.celery_conf(environment.load_or_exit(), "control"))
app.autodiscover_tasks(["jobs"])

"""The control plane's Celery app: `celery -A autotrainer_site …`."""

from __future__ import annotations

import os

from celery import Celery

from gpuworker import messageguard, protocol
from gpuworker import settings as environment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autotrainer_site.settings")

app = Celery("autotrainer_site")
app.set_default()  # the web server publishes from threads of its own, which else would see no app
app.config_from_object(environment.celery_conf(environment.load_or_exit(), "control"))
app.autodiscover_tasks(["jobs"])
app.steps["worker"].add("jobs.bootsteps:ControlThreads")  # by name: it needs Django's models, which are not there yet
messageguard.install(app, longest_wait_s=protocol.LONGEST_COUNTDOWN_S)

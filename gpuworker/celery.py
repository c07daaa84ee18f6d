"""The host agent's Celery app: `celery -A gpuworker worker -P threads -c 128 -Q host.<name> -n gpu@<name>`.

No Django: with DJANGO_SETTINGS_MODULE inherited from `manage.py`, Celery would set it up here, 17 MB of it, and hand the
variable on to trainings.
"""

from __future__ import annotations

import os

for _name in ("DJANGO_SETTINGS_MODULE", "CELERY_CONFIG_MODULE"):
    os.environ.pop(_name, None)

from celery import Celery  # noqa: E402 - not before the environment is clean

from gpuworker import bootsteps, messageguard, protocol, settings, tasks  # noqa: E402

THREADS = 128

_settings = settings.load_or_exit()

app = Celery("gpuworker", set_as_current=True)
app.config_from_object(
    settings.celery_conf(_settings, f"host-{_settings.host}", **settings.unacked_keys(_settings.host))
    | {
        "task_default_queue": protocol.host_queue(_settings.host),
        "worker_pool": "threads",
        "worker_concurrency": THREADS,
    }
)
tasks.register(app)
messageguard.install(app)
bootsteps.install(app, _settings)

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connections

from autotrainer_site.crowd import in_turn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autotrainer_site.settings")

application = in_turn(get_asgi_application())
health = import_module("jobs.health")  # it needs the models, which are there now

with ThreadPoolExecutor(1) as outside:  # of the event loop that imports this
    outside.submit(health.refuse_to_serve).result()
    outside.submit(connections.close_all).result()

import_module(settings.ROOT_URLCONF)
gc.collect()
gc.freeze()
"""All code is loaded and lives as long as the process. The collector need not look through it: that took 90 ms, each time in
the middle of somebody's request."""

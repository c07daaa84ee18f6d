from __future__ import annotations

import gc
import os
from importlib import import_module

from django.conf import settings
from django.core.asgi import get_asgi_application

from autotrainer_site.crowd import in_turn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autotrainer_site.settings")

application = in_turn(get_asgi_application())

import_module(settings.ROOT_URLCONF)
gc.collect()
gc.freeze()
"""All code is loaded and lives as long as the process. The collector need not look through it: that took 90 ms, each time in
the middle of somebody's request."""

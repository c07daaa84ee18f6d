#!/usr/bin/env python3
"""Django's command line, and the product's: `manage.py up`, `status`, `doctor`, `signin`, `join`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autotrainer_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()

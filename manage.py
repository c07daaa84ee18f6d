#!/usr/bin/env python3
"""Django's command line, and the product's: `manage.py up`, `status`, `doctor`, `signin`, `join`."""

from __future__ import annotations

import os
import sys

from gpuworker.settings import BadSetting


def main() -> None:
    if sys.argv[1:2] == ["up"]:  # lives as long as the product: it runs without Django's 40 MB
        from starter import up

        sys.exit(up.main(sys.argv[2:]))
    os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"  # whatever another project left in this shell
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except BadSetting as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Starts AutoTrainer: `python3 AutoTrainer.py`. What it can do: `python3 AutoTrainer.py --help`, and README.md.

Every Python, however old, can read this file: so that it can say which one is needed. The work is done in starter/.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("AutoTrainer needs Python 3.11 or newer, this is %d.%d." % sys.version_info[:2])
if not sys.platform.startswith("linux"):
    sys.exit("AutoTrainer runs on Linux only, this is %s." % sys.platform)

from starter.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""Starts AutoTrainer: `python3 AutoTrainer.py`. What it can do: `python3 AutoTrainer.py --help`, and README.md.

Every Python, however old, can read this file: so that it can say which one is needed. The work is done in starter/, and for
the words of the command line client in jobs/cli/, which needs nothing to be installed.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("AutoTrainer needs Python 3.11 or newer, this is %d.%d." % sys.version_info[:2])
if not sys.platform.startswith("linux"):
    sys.exit("AutoTrainer runs on Linux only, this is %s." % sys.platform)

CLIENT = ["submit", "run", "list", "show", "logs", "wait", "cancel", "retry", "hold", "release", "gpus", "hosts", "templates"]
CLIENT += ["login", "logout", "whoami", "completion"]


def _main(argv):
    if argv and argv[0] in CLIENT:
        from jobs.cli.main import main
    else:
        from starter.commands import main
    return main(argv)


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1:]))
    except KeyboardInterrupt:  # before anything began
        sys.exit(130)

"""The peer: the smallest Celery app that runs a command. A pool thread stands for a device."""

from __future__ import annotations

import os
import subprocess
import threading

from celery import Celery

app = Celery("peer", broker=os.environ["PEER_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)

_masks: dict[int, str] = {}
_lock = threading.Lock()


@app.task(name="run")
def run(argv: list[str]) -> int:
    with _lock:
        mask = _masks.setdefault(threading.get_ident(), str(len(_masks)))
    return subprocess.run(argv, env={**os.environ, "CUDA_VISIBLE_DEVICES": mask}, check=False).returncode

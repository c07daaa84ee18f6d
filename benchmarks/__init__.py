"""How fast and how heavy AutoTrainer is, beside a bare Celery worker in the same run: `python -m benchmarks`.

Product and peer are measured by turns on the same machine with the same compiled payload, since absolute figures of
different machines, or of the same machine on different days, say little. The peer promises nothing: it never writes to
disk, knows no devices and forgets a job when it dies. The ratio is what the product's promises cost.
"""

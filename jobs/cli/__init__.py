"""The command line client, `autotrainer`: standard library only, and quick to start.

It is one program in two places: in the checkout it is `jobs.cli`; installed alone (`pip install .` on a laptop) it is the
package `autotrainer_client`, since a top-level `jobs` would be in the way of other people's. So its modules name each other
relatively, and nothing here may import anything else of ours but `gpuworker.settings`, where there is a checkout.
Starting time counts: no `typing`, `dataclasses` or `pathlib` at run time, and each command imports only what it needs.
"""

"""Makes the environment, starts the services and keeps them: everything before and around Django and Celery.

Standard library only (and gpuworker's settings): it runs before anything is installed, and `manage.py up`, which lives as
long as the product, stays small.
"""

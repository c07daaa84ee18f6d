# The control plane (web, control worker, Flower). GPU hosts run `python3 AutoTrainer.py host` on the machine itself: a
# container's processes end with it, and trainings must not.

# Packages as requirements.lock has them, hash by hash; what is needed to install them stays behind.
FROM python:3.12-slim-trixie AS packages
RUN python -m venv /opt/venv
COPY requirements.lock .
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock

FROM python:3.12-slim-trixie
# pg_dump and pg_restore of `manage.py backup`; their version must not be below the server's (17).
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 autotrainer \
    && install -d -o autotrainer -m 0700 /var/lib/autotrainer
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/autotrainer

COPY manage.py ./
COPY autotrainer_site autotrainer_site
COPY gpuworker gpuworker
COPY jobs jobs
COPY starter starter
COPY locale* locale
RUN python -m compileall -q .

USER autotrainer
ENV AUTOTRAINER_HOME=/var/lib/autotrainer
VOLUME /var/lib/autotrainer
EXPOSE 8000

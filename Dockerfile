# The control plane (web, control worker, Flower). GPU hosts run `python3 AutoTrainer.py host` on the machine itself: a
# container's processes end with it, and trainings must not.
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 autotrainer \
    && install -d -o autotrainer -m 0700 /var/lib/autotrainer
WORKDIR /opt/autotrainer

COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

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

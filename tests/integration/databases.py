"""A PostgreSQL in the place of the database that pytest-django gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dj_database_url
from django.db import connection, connections

from tests.postgres import Postgres


@contextmanager
def connected_to(server: Postgres) -> Iterator[None]:
    """The default connection of all threads, new ones too, is this server."""
    configured = connections.settings
    before = configured["default"]
    connections["default"].close()
    configured["default"] = before | dict(dj_database_url.parse(server.url)) | {"OPTIONS": {}}
    del connections["default"]
    try:
        yield
    finally:
        connections["default"].close()
        configured["default"] = before
        del connections["default"]


@contextmanager
def postgres_as_default(server: Postgres) -> Iterator[None]:
    """For one test; what it leaves is thrown away."""
    with connected_to(server):
        try:
            yield
        finally:
            _empty()


def _empty() -> None:
    tables = ", ".join(connection.ops.quote_name(table) for table in connection.introspection.django_table_names(only_existing=True))
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")

"""Django's settings, all of them from the environment (gpuworker.settings holds the table). Wiring only."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.templatetags.static import static

from autotrainer_site import keys
from gpuworker import settings as environment

AUTOTRAINER = environment.load()
BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = False
SECRET_KEY = AUTOTRAINER.secret_key or keys.kept(AUTOTRAINER.keys_home / "secret_key")
CLUSTER_KEY = keys.cluster_key(AUTOTRAINER)
CLUSTER_KEY_PREVIOUS = keys.previous_cluster_key(AUTOTRAINER)
REDIS_URL = AUTOTRAINER.redis_url
LOGS_HOME = AUTOTRAINER.home / "logs"

_address = urlsplit(AUTOTRAINER.url)
_secure = _address.scheme == "https"
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    _address.hostname or "localhost",
    *([AUTOTRAINER.bind] if AUTOTRAINER.bind not in ("0.0.0.0", "::") else []),  # noqa: S104 - compared, not bound
]
CSRF_TRUSTED_ORIGINS = [f"{_address.scheme}://{_address.netloc}"] if _secure else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _secure
SESSION_COOKIE_NAME = f"autotrainer_session_{AUTOTRAINER.port}"  # cookies know no ports: two instances on one machine
CSRF_COOKIE_NAME = f"autotrainer_csrf_{AUTOTRAINER.port}"
SESSION_COOKIE_AGE = int(timedelta(days=14).total_seconds())
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if _secure:  # a proxy in front speaks TLS; whoever asks us in plain HTTP for a page is sent there
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT, SECURE_SSL_HOST = True, _address.netloc
    # Programs on this machine go round the proxy: the client, health checks, Prometheus.
    SECURE_REDIRECT_EXEMPT = [r"^api/", r"^healthz$", r"^readyz$", r"^metrics$"]
    SECURE_HSTS_SECONDS = int(timedelta(days=30).total_seconds())
# Other names below this one, and the browsers' built-in lists, are not ours to decide about.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 2**20

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_standardized_errors",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "jobs",
    "autotrainer_site",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "jobs.web.security.content_security_policy",
    "jobs.audit.note_door",
    "autotrainer_site.middleware.in_one_thread",  # last
]

ROOT_URLCONF = "autotrainer_site.urls"
ASGI_APPLICATION = "autotrainer_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


_POSTGRES_PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": "-c idle_in_transaction_session_timeout=5000",
}
"""A server that is not reached is an error within seconds, not a page or a scheduler that hangs. And who stands still, or is cut
off, inside a transaction is thrown out of it before its lease ends: it would hold the rows that the next leader must write."""


def _database() -> dict[str, Any]:
    """PostgreSQL where DATABASE_URL says so; else SQLite as it must be set for several processes (IMMEDIATE, WAL, FULL)."""
    if AUTOTRAINER.database_url:
        found: dict[str, Any] = dict(dj_database_url.parse(AUTOTRAINER.database_url, conn_max_age=0))
        if found["ENGINE"] == "django.db.backends.postgresql":
            found["OPTIONS"] = _POSTGRES_PATIENCE | found.get("OPTIONS", {})
        return found
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(AUTOTRAINER.home / "autotrainer.sqlite3"),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
        },
        "TEST": {"NAME": str(AUTOTRAINER.home / "test.sqlite3")},  # a file: locks and several threads as in earnest
    }


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "jobs.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "signin"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "signin"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_TZ = True
TIME_ZONE = AUTOTRAINER.time_zone

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "static_out"
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False

# Counted tries to sign in lie here: with the default of 300 entries somebody could push his own out with made-up names.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 50_000}}}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "jobs.api.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_METADATA_CLASS": None,  # the schema tells what OPTIONS would
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    "URL_FORMAT_OVERRIDE": None,  # `?format=text` is ours
    "UNICODE_JSON": True,
}
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": timedelta(days=90), "TOKEN_PREFIX": "at_", "AUTO_REFRESH": False}
SPECTACULAR_SETTINGS = {
    "TITLE": "AutoTrainer",
    "DESCRIPTION": "The queue for GPU training commands.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "jobs.api.schema.add_what_no_view_tells"],
}

_SHADES = ["97% .014", "93% .032", "88% .06", "81% .1", "72% .14", "60% .16", "50% .16", "43% .15", "38% .13", "33% .1", "25% .07"]
UNFOLD = {
    "SITE_TITLE": "AutoTrainer",
    "SITE_HEADER": "AutoTrainer",
    "SITE_ICON": lambda request: static("jobs/icon.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("jobs/icon.svg")}],
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [lambda request: static("jobs/admin.css")],
    "COLORS": {
        "primary": {  # the pages' one accent
            str(step): f"oklch({shade} 254)" for step, shade in zip((50, *range(100, 1000, 100), 950), _SHADES, strict=True)
        }
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "uvicorn.access": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
    },
}

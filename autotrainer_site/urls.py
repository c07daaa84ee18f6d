from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from jobs import health, metrics
from jobs.web.views import account

urlpatterns = [
    path("admin/login/", account.to_sign_in),  # before the admin's own
    path("admin/", admin.site.urls),
    path("api/v1/", include("jobs.api.urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", metrics.metrics),
    path("", include("jobs.web.urls")),
]

handler400 = "jobs.api.errors.bad_request"
handler403 = "jobs.api.errors.permission_denied"
handler404 = "jobs.api.errors.not_found"
handler500 = "jobs.api.errors.server_error"

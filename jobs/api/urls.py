from __future__ import annotations

from django.urls import path

from jobs.api import (
    artifact_views,
    auth_views,
    host_views,
    job_views,
    log_views,
    measure_views,
    notification_views,
    schema,
    stream,
    template_views,
    token_views,
)

_action = job_views.JobActionView.as_view
_host = host_views.HostActionView.as_view
_device = host_views.DeviceActionView.as_view

urlpatterns = [
    path("auth/login/", auth_views.LoginView.as_view()),
    path("auth/logout/", auth_views.LogoutView.as_view()),
    path("auth/me/", auth_views.MeView.as_view()),
    path("auth/tokens/", token_views.TokensView.as_view()),
    path("auth/tokens/<int:id>/", token_views.TokenView.as_view()),
    path("jobs/", job_views.JobsView.as_view()),
    path("jobs/<int:id>/", job_views.JobView.as_view()),
    path("jobs/<int:id>/cancel/", _action(action="cancel")),
    path("jobs/<int:id>/hold/", _action(action="hold")),
    path("jobs/<int:id>/release/", _action(action="release")),
    path("jobs/<int:id>/resubmit/", job_views.JobResubmitView.as_view()),
    path("jobs/<int:id>/events/", job_views.JobEventsView.as_view()),
    path("jobs/<int:id>/swaps/<int:number>/", job_views.JobSwapView.as_view()),
    path("jobs/<int:id>/log/", log_views.LogView.as_view()),
    path("jobs/<int:id>/log/stream/", stream.log_stream),
    path("jobs/<int:id>/samples/", measure_views.SamplesView.as_view()),
    path("jobs/<int:id>/curves/", measure_views.CurvesView.as_view()),
    path("jobs/<int:id>/artifacts/", artifact_views.ArtifactsView.as_view()),
    path("jobs/<int:id>/artifacts/file/", artifact_views.ArtifactView.as_view()),
    path("jobs/<int:id>/notifications/", notification_views.NotificationsView.as_view()),
    path("templates/", template_views.TemplatesView.as_view()),
    path("templates/<int:id>/", template_views.TemplateView.as_view()),
    path("hosts/", host_views.HostsView.as_view()),
    path("hosts/<str:name>/drain/", _host(action="drain")),
    path("hosts/<str:name>/resume/", _host(action="resume")),
    path("hosts/<str:name>/lost/", _host(action="lost")),
    path("hosts/<str:name>/rule/", host_views.HostRuleView.as_view()),
    path("hosts/<str:name>/ignore/", host_views.IgnoreView.as_view(ignored=True)),
    path("hosts/<str:name>/heed/", host_views.IgnoreView.as_view(ignored=False)),
    path("devices/", host_views.DevicesView.as_view()),
    path("devices/history/", measure_views.HistoryView.as_view()),
    path("devices/<str:uuid>/drain/", _device(action="drain")),
    path("devices/<str:uuid>/resume/", _device(action="resume")),
    path("devices/<str:uuid>/keep/", host_views.KeepView.as_view()),
    path("devices/<str:uuid>/unkeep/", _device(action="unkeep")),
    path("schema/", schema.SchemaView.as_view(), name="schema"),
    path("docs/", schema.DocsView.as_view(url_name="schema")),
]

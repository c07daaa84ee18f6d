"""The addresses of the pages; those that end in live/ are parts that a page asks for again."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.templatetags.static import static
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.generic import RedirectView
from django.views.i18n import set_language

from jobs.web.views import account, chats, job, joblist, overview, password, preferences, submit, templates


class Icon(RedirectView):
    """Browsers ask for it here on pages that name no icon of their own."""

    def get_redirect_url(self, *args: object, **kwargs: object) -> str:
        return static("jobs/icon.svg")


urlpatterns = [
    path("", overview.overview, name="overview"),
    path("live/", overview.overview_live, name="overview-live"),
    path("signin/", account.sign_in, name="signin"),
    path("signin/<str:token>/", account.sign_in_by_link, name="signin-link"),
    path("account/password/", never_cache(password.OnesOwn.as_view()), name="password"),
    path("account/password/<str:uidb64>/<str:token>/", password.ByLink.as_view(), name="password-link"),
    path("account/notifications/", preferences.my_preferences, name="preferences"),
    path("account/chat/", chats.my_chats, name="chats"),
    path("account/tokens/", account.my_tokens, name="tokens"),
    path("language/", set_language, name="set_language"),
    path("signout/", LogoutView.as_view(), name="signout"),
    path("jobs/", joblist.job_list, name="jobs"),
    path("jobs/act/", joblist.job_list_act, name="jobs-act"),
    path("jobs/live/", joblist.job_list_live, name="jobs-live"),
    path("jobs/new/check/", submit.job_check, name="job-check"),
    path("jobs/new/environments/", submit.job_environments, name="job-environments"),
    path("jobs/templates/", templates.my_templates, name="job-templates"),
    path("jobs/new/", submit.job_new, name="job-new"),
    path("jobs/<int:number>/", job.job_page, name="job"),
    path("jobs/<int:number>/live/", job.job_live, name="job-live"),
    path("jobs/<int:number>/log/failure/", job.job_log_failure, name="job-log-failure"),
    path("jobs/<int:number>/log/find/", job.job_log_find, name="job-log-find"),
    path("jobs/<int:number>/log/lines/", job.job_log_lines, name="job-log-lines"),
    path("jobs/<int:number>/<slug:name>/", job.job_action, name="job-action"),
    path("favicon.ico", Icon.as_view()),
]

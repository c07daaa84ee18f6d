import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0007_progress_and_memory")]

    operations = [
        migrations.AddField(model_name="attempt", name="own_fault", field=models.BooleanField(default=True)),
        migrations.AddField(
            model_name="device",
            name="kept_for",
            field=models.ForeignKey(
                blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(model_name="device", name="kept_until", field=models.DateTimeField(blank=True, null=True)),
        migrations.AddField(model_name="device", name="kept_by", field=models.CharField(blank=True, default="", max_length=500)),
        migrations.AddField(model_name="device", name="resumed_at", field=models.DateTimeField(blank=True, null=True)),
        migrations.AddField(model_name="host", name="use_memory_mib", field=models.PositiveIntegerField(blank=True, null=True)),
        migrations.AddField(model_name="host", name="use_idle_min", field=models.PositiveIntegerField(blank=True, null=True)),
        migrations.AddField(model_name="host", name="ignored", field=models.JSONField(blank=True, default=list)),
        migrations.AddField(model_name="host", name="rule_by", field=models.CharField(blank=True, default="", max_length=500)),
        migrations.AddField(model_name="host", name="rule_at", field=models.DateTimeField(blank=True, null=True)),
        migrations.AddField(model_name="host", name="rules_serial", field=models.BigIntegerField(default=0)),
        migrations.AddField(model_name="host", name="resumed_at", field=models.DateTimeField(blank=True, null=True)),
    ]

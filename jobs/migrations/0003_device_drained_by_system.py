from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_one_time_links")]

    operations = [
        migrations.AddField(model_name="device", name="drained_by_system", field=models.BooleanField(default=False)),
    ]

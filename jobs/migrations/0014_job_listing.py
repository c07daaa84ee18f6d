from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobs', '0013_audit'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='job',
            index=models.Index(fields=['state', 'id', 'owner', 'name', 'priority', 'created_at', 'started_at', 'ended_at'], name='job_listing'),
        ),
    ]

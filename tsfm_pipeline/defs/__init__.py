"""All Dagster glue: assets, checks, jobs, schedules, sensors, partitions and resources. Mathematics
and paths belong elsewhere.
"""

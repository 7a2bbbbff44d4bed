"""All Dagster glue: assets, checks, jobs, schedules, sensors, partitions and resources. No
mathematics, no paths.
"""

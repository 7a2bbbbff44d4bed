"""The steps of the experiment: functions that read tables and return a table.

What belongs here: one function per table, one file per asset group. What does not: Dagster
(`defs`), and figures that only a report shows (`reports`).
"""

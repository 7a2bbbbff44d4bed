"""One function per table, one file per asset group: tables in, tables out. No Dagster, and nothing
that a report only shows.
"""

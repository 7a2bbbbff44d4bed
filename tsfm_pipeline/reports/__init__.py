"""One folder per report: `numbers` compute it, `words` and `figures` show it. No Dagster here, and
no table that another table is computed from.
"""

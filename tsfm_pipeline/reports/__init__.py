"""One folder per report: numbers make it, words and figures show it. No Dagster, and no table that
another table is made from.
"""

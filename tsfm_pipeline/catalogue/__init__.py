"""The contents of the data folder: records of tables, the lock of the code behind them, and record
tables.

What belongs here: which tables exist, what their columns mean, and how they are opened and read.
What does not: making a table (`steps`), writing a part to disk (`lake`, `files`), Dagster.
"""

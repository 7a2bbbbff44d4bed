"""The contents of the data folder: records of tables, the lock of the code behind them, and record
tables.

What belongs here: what is stored under which name, and how it is read as a whole. What does not:
making a table, how a part gets onto the disk (`lake`, `files`), Dagster.
"""

"""What the lake holds: which tables there are, what makes each of them, and by which code.

What belongs here: records of tables and the lock of the code behind them. What does not: making a
table, storing one, Dagster.
"""

"""The scorers: one module per kind, each with a function that returns them.

What belongs here: nothing but this sentence; each module says what it holds.
"""

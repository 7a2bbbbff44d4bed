"""Names that scorers are recognised by: those that all others are compared with.

What belongs here: names and beginnings of names, which are written to tables. What does not: the
scorers.
"""

VOLATILITY = "volatility_logit"
"""A logistic regression on volatilities alone: what is known without knowing a direction."""
UNTRAINED = "untrained_"
"""How the names of scorers without any fitted number begin."""
PATCHTST = "patchtst"
"""How the names of trained PatchTST networks begin."""

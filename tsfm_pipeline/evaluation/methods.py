"""The names of the methods that are compared.

What belongs here: names. What does not: what a method does.
"""

SEARCH = "search"

SEARCH_UNCORRECTED = "search_uncorrected"

FIXED = "fixed_quantile"

CONFIG_PREFIX = "config:"

RULE_PREFIX = "rule:"

"""The report on the online service: numbers, words and figures; nothing of another report."""

"""The report across fleets: numbers, words and figures; nothing of another report."""

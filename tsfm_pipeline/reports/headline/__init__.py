"""The headline report: numbers, words and figures; nothing of another report."""

"""The cold-start report: numbers, words and figures; nothing of another report."""

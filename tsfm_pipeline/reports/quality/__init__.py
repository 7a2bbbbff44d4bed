"""The forecast quality report: numbers, words and figures; nothing of another report."""

"""The latency report: numbers, words and figures; nothing of another report."""

"""The recommendation report and its review: numbers, words and figures; nothing of another
report.
"""

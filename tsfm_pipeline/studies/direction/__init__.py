"""The study `direction`: does a frozen model know where a market goes, or only how much it moves?

What belongs here: markets and their labels, scorers of the days ahead, the statistics that compare
them, and the report. What does not: anything that trades. Nothing imports a study.
"""

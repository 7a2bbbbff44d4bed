"""Reports for people: sentences, tables, figures and the one-page HTML, all made from the reports' plain numbers.

What belongs here: how a figure is worded, drawn and laid out. What does not: computing it (`stages`, `evaluation`) and
writing it to disk (`workspace`). Every function takes the dictionaries that the report assets write as JSON; a missing
key, None and NaN all mean "no figure", and are shown as such.
"""

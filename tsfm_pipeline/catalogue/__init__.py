"""The contents of the data folder: record tables, and where what an earlier release left belongs.

What belongs here: what is stored under which name and how it is read as a whole. What does not: how a part of a table gets onto the
disk (`lake`, `files`), and what any of it means (`stages`).
"""

"""The steps of the pipeline as plain functions: from a fleet's tables to the next table, or to one shard of it.

What belongs here: reading arrays from the workspace, calling the domain packages, and laying the result out as rows. What does not: the
mathematics (domain packages), scheduling, metadata and checks (`defs`).
"""

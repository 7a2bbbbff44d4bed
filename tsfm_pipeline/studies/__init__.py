"""Studies: questions about forecasts that the pipeline does not need in order to run.

What belongs here: one package per study, each with its own code location and its own extra in
pyproject.toml. What does not: anything that another room needs. A study may import everything below
the applications, and `pretraining`; nothing imports a study, which an import contract checks. What
a study adds to another room is found through entry points (`plugins`). There is none yet.
"""

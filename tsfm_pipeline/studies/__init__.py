"""Studies: questions about forecasts that the pipeline does not need in order to run.

What belongs here: one package per study, each with its own code location and its own extra in
pyproject.toml. What does not: code that other packages need. A study may import everything below
the applications, and `pretraining`. No module may import a study; an import contract checks this. A
study extends other packages through entry points (`plugins`). There are no studies yet.
"""

"""The online service: it answers forecast requests from one file that a fleet's run has written.

What belongs here: opening that file and answering requests with it, also over HTTP. At present
there is only the register of the models that it may use (`serving.models`). What does not: the lake
and its tables. A server has a bundle but no fleet; an import contract forbids `lake`, `catalogue`,
`steps` and dagster.
"""

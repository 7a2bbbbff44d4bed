"""The online service: it answers forecast requests from one file that a fleet's run has written.

What belongs here: what opens that file and answers with it, over HTTP too. So far there is only the
register of models that it will be able to answer with (`serving.models`). What does not: the lake
and what lies in it. A server has a bundle and no fleet; an import contract forbids `lake`,
`catalogue`, `steps` and dagster.
"""

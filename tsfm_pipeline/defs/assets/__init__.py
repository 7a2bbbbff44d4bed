"""The asset graph: the tables, and the reports of each group; each module exposes
`build(partitions) -> list[AssetsDefinition]`.
"""

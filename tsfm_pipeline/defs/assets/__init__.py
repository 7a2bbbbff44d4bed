"""The asset graph, one module per group; each exposes `build(partitions) -> list[AssetsDefinition]`."""

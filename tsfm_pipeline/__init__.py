"""The whole pipeline; here is nothing but its version, which `pyproject.toml` reads."""

__version__ = "0.1.0"

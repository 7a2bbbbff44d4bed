"""Modules that all reports share. Nothing here knows a particular report."""

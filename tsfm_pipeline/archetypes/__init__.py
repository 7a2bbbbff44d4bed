"""Archetypes of tenants: features of telemetry, and an index that finds similar tenants.

What belongs here: features and nearest neighbours. What does not: anything that uses forecasts or
losses; `autoresearch` builds priors from neighbours.
"""

"""What kind of tenant is this? Features of telemetry, and an index that finds tenants which look
alike.

What belongs here: features and nearest neighbours. What does not: anything that knows forecasts or
losses; priors that are built from neighbours live in `autoresearch`.
"""

"""The command `tsfm-pipeline`: describe fleets, run them, forecast, open reports.

What belongs here: arguments, tables on the screen, exit codes. What does not: any rule about
telemetry (`fleets`) or forecasts (`autoresearch`, `forecaster`). A command imports heavy modules
only when it needs them: `--help` must answer at once.
"""

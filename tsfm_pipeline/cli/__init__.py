"""The command `tsfm-pipeline`: a fleet's way in, forecasts and reports' way out.

What belongs here: arguments, tables on the screen, exit codes. What does not: any rule about
telemetry (`fleets`) or forecasts (`autoresearch`, `forecaster`). Nothing heavy is imported before a
command needs it: `--help` must answer at once.
"""

"""The one HTML page of a fleet, its markdown and the codebook. What a section says belongs to its
report.
"""

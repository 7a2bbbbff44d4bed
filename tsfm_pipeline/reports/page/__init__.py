"""The HTML page of a fleet, its markdown and the codebook. Only what belongs to no single report is
here.
"""

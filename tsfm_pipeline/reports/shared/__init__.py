"""What all reports are written and drawn with. Nothing here knows a particular report."""

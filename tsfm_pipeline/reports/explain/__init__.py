"""The explanation of one tenant's recommendations; nothing else belongs here."""

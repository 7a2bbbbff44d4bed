"""The report on one recipe of the study."""

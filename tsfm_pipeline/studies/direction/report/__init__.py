"""The study's report on one market. What belongs here: its figures, words, tables and page."""

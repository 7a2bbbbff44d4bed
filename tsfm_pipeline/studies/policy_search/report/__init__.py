"""The report of the study: numbers, importance, words and figures, and one page of them."""

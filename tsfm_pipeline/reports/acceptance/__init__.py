"""The acceptance criteria and the ledger: numbers, words and figures; nothing of another report."""

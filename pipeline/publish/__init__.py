"""What leaves the house: exports and their check, model cards, the Hub, the pages of the report."""

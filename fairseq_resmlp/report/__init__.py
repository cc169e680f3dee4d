"""The report on trained models: statistics of their weights, plots, and an HTML page."""

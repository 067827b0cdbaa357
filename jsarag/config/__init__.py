"""Settings: their declaration, where each came from, recipes."""

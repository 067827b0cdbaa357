"""Scores with intervals and a signature, the report, and a look into a finished run."""

"""Several settings on the same data: run, kept row by row, and compared with intervals."""

"""Passage vectors: made, kept on disk, searched, verified; and BM25 beside them."""

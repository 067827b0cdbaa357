"""Files that are either whole or absent: atomic writing, digests, tensors, the run folder."""

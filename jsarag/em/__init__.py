"""The algorithm: where a passage may come from, how likely each one is, and what that teaches.

A step is four stations, each a file: ``support``/``proposals`` (candidates), ``scoring`` (log
probabilities), ``weights``/``mis`` (the E-step), ``mstep`` (the loss). ``objectives`` arranges
them; ``problem`` is what it all reads. Tensors and frozen records only.
"""

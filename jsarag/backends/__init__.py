"""Which implementation of an op runs, and the one door to compiled code.

``select`` chooses and says why, ``native`` holds every pointer, ``report`` answers ``doctor``.
"""

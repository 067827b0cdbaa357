"""Training on several processes: who there is, how they talk, and how their sums are made.

The only package that knows of ranks, ports and collectives. It decides nothing about training: the
trainer shares out a step's rows, adds up its gradients and asks the others through a
:class:`~jsarag.parallel.team.Team`, and a run of one process has a team of one.
"""

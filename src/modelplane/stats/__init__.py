"""Pure statistics: sequential tests by betting, latency exceedance, correlated failures.

Called by ``modelplane.decisions``. Numbers in, numbers out: nothing here may read a clock, draw
a random number, do I/O or know what a rollout is.
"""

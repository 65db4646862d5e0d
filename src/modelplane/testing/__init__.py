"""Public fakes and a manual clock, for tests of modelplane and of what is built on it.

Each fake passes the contract suite of its port.
"""

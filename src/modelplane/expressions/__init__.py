"""Languages that people write rules in: CEL for conditions, Cedar for who may do what.

Pure: text and values in, values out. Every error means no.
"""

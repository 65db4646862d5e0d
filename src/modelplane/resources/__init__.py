"""What people declare: one module per kind, the shape they share, and manifest reading.

Pure data and validation: no I/O, no clock, no randomness. Every floor above uses it.
"""

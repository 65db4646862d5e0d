"""Adapters: each package implements ports with one real thing; they do not know each other."""

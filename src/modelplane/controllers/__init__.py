"""Controllers: one reconciler per concern, each level-triggered and keyed by a resource.

A reconciler observes (no transaction held), asks a pure decision, and applies the outcome in one
fenced transaction. Reconcilers do not know each other; they meet in the store.
"""

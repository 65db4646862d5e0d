"""One module for each check; `modelplane.stages.running` finds them by name."""

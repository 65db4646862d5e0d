"""A Prometheus that evaluates our rules, and an Alertmanager that is told of alerts."""

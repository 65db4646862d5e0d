"""Senders of notifications: webhooks, Slack-compatible, e-mail."""

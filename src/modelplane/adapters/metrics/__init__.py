"""Recent telemetry, kept in memory."""

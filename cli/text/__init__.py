"""What people read: tables, findings, durations, YAML, exit codes."""

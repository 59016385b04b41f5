"""This machine: its programs, kernel interfaces, permissions and files."""

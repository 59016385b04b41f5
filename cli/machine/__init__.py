"""This machine: its programs, kernel interfaces and rights; an executable file."""

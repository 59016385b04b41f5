"""End-to-end tests: whole processes in network namespaces of their own."""

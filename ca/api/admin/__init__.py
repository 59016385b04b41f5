"""The admin API: one module for each group of routes, and the application that serves them."""

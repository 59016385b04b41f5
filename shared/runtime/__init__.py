"""What running components share and the model must not know: guarded tasks, sinks, TLS contexts, paths."""

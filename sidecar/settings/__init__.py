"""What a sidecar is told at its start: options, a YAML file, the pod."""

"""What the CA, the sidecar and the command agree on in Kubernetes: names (``contract.py``) and quantities. Pure."""

"""The Helm chart and the installer's objects, made from what Kustomize builds: ``python -m scripts.chart``."""

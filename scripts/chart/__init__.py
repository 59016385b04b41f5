"""The Helm chart, made from the same manifests that Kustomize builds. ``python -m scripts.chart`` writes it again."""

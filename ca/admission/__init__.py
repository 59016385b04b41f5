"""The mutating webhook by which pods get their sidecar. What it does to a pod is
``shared/model/injection/patch.py``."""

"""What the kubelet asks of a pod, answered by its sidecar: readiness of its own, and the application's probes.

``server.py`` answers, ``readiness.py`` says whether this sidecar is ready, ``perform.py`` asks the application in the
kubelet's place: by ``http_probe.py`` or ``grpc_probe.py``, or by a mere connect. ``outcome.py`` is what comes of it;
``readiness_gate.py`` withholds readiness while explicit mode refuses every peer.
"""

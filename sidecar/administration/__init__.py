"""What an operator asks of one sidecar: figures (``metrics.py``) and, by a local socket, its state (``answers.py``).

``local_socket.py`` serves the socket and checks who asks; ``python -m sidecar.administration`` asks, where there is no
``touchmark`` command (the sidecar's image).
"""

"""``python -m bench.soak``: the mesh under mixed load, policy flips, and a CA and peers that are killed, for minutes.

``__main__.py`` is the story; ``mesh.py`` runs CA and sidecars, ``clients.py`` is the load and ``echo.py`` its servers
(processes of their own), ``disturbances.py`` what happens during it, ``judgement.py`` (pure) what the run must
show, and ``report.py`` the page.
"""

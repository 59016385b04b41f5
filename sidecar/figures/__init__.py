"""Figures of the sidecar: what is counted on the way (``counts.py``), and Prometheus' text (``exposition.py``).

A count on a connection's way is ``+= 1`` on an object that the story was given; everything else is read when asked.
"""

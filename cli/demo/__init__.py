"""``touchmark demo``: the whole story on real processes, told by the commands that a user would type.

``story.py`` tells it; ``stage.py`` says what a stage is; ``listeners.py`` and ``namespaces.py`` build both kinds;
``processes.py`` tracks every child, ``capture.py`` looks at packets, ``facts.py`` holds what was observed.
"""

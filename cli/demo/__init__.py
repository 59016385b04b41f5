"""``touchmark demo``: a guided tour with real processes, shown as the commands that a user would type.

``story.py`` has the steps; ``stage.py`` defines a stage; ``listeners.py`` and ``namespaces.py`` build the two kinds;
``processes.py`` tracks every child, ``packets.py`` captures packets, ``facts.py`` holds the observations.
"""

"""Code that processes have loaded besides their program: the files that they map executable, measured."""

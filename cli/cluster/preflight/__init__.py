"""What an installation needs of a cluster, asked before it: ``touchmark doctor --pre``."""

"""Bundles what the page of ``touchmark ui`` uses of other people's code."""

"""Edges drawn: a graph of workloads in layers, as SVG, dot or mermaid."""

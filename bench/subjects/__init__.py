"""The pairs of proxies that are compared; each module starts one of them."""

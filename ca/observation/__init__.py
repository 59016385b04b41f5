"""What sidecars report: decisions, and whether ``explicit`` is safe by them."""

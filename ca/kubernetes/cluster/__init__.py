"""What the CA remembers of the cluster: pods, Services, labels, refused enrolments."""

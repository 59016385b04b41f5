"""What injection needs in the cluster: the trust ConfigMaps and the webhook configuration."""

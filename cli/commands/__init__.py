"""One module per verb, and the options that they share."""

"""One module a verb, and the options that they share."""

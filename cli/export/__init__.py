"""A namespace's rules in the words of other policy engines: what they can say, and what is lost. Pure."""

"""The store's queries in a store of a million rows a table: the rows, the questions, and how long each takes."""

"""Raw non-blocking sockets: dialling them, and which of them can be read or written."""

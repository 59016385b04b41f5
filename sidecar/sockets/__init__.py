"""Raw non-blocking TCP sockets: their addresses, dialling, ending, and which of them can be read or written."""

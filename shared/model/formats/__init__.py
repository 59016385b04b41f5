"""Decision records in the formats of other people's log stores: one module a format. Pure."""

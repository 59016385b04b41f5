"""Where an outbound connection goes: to the address that was dialled, or to an endpoint of the Service behind it."""

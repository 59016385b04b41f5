"""What may talk to what: rules, their evaluation, reasons, decisions, documents. Pure."""

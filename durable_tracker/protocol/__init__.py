"""The tracker protocol: fields and their rules, schemas, addresses, and the encoder that makes bytes of an event."""

"""What an emitter can be told: its arguments, how each is checked, and which of them go on record with a backlog."""

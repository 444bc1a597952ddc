"""What `python -m durable_tracker COMMAND` can do, one module for each group of commands."""

"""Queues in files of SQLite, each with one owner at a time."""

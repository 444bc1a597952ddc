"""Asking a live process about its queues, and asking it to act on them: only their owner may."""

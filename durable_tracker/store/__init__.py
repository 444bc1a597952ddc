"""The queue on disk: exclusive slots, one SQLite connection each. See `queue` for what it promises."""

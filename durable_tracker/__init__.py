"""A Snowplow event tracker that loses nothing: every event is on disk before `track()` returns."""

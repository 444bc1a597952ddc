"""What an emitter is made of while its process runs: settings, the worker's thread, exit."""

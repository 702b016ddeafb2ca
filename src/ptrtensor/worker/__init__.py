"""The worker's side: a session takes commands, runs them over its store and answers."""

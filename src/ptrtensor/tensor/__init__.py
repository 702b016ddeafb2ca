"""From a call on a pointer to a command: pointer, dispatch, inference."""

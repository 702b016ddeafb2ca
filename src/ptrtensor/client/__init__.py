"""The caller's side of a session: commands out in batches, replies in, errors kept until somebody waits. No torch."""

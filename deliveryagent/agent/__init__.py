"""The crew: the queue manager, the workers, their sessions and the journal."""

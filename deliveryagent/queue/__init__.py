"""The door to the store: all SQL of the agent, on one dedicated thread."""

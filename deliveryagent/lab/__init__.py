"""A playground on loopback: a name server and receiving servers with every fault."""

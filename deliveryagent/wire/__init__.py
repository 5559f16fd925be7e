"""The door to the network: sockets, TLS, and conversations played over them."""

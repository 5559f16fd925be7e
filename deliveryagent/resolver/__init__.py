"""The door to DNS: names in, mail hosts and addresses (or the reason why not) out."""

"""deliveryagent: a Postfix-like agent for outbound mail."""

__version__ = "0.1.0"

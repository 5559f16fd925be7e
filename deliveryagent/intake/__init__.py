"""Where mail comes in: the local socket, later the SMTP and LMTP listeners."""

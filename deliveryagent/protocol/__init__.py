"""Pure conversations and formats: replies, EHLO, commands, content, reports; no input or output."""

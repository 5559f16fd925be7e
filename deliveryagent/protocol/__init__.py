"""Conversations and formats, without input or output: replies, capabilities, commands, dialogues, content, reports."""

"""Words and grammars of mail: immutable values, no input or output, no clock, no policy."""

"""Measurements of the agent, with Postfix beside it where it is installed: ``make bench``.

Every figure is taken on the machine at hand, in one sitting, both programs in turn; only ratios
travel. What was measured when is in NOTES.md.
"""

"""Decisions: pure functions from values to values, given the time and a random source.

The scheduler, ``why``, ``probe`` and the tests call the same ones.
"""

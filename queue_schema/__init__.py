"""The data contract of the queue: SQLAlchemy tables, Alembic migrations, and later SQL functions.

Importable without the agent, so that other programs can read the queue. Imports SQLAlchemy and Alembic only.
"""

"""The data contract of the queue: SQLAlchemy tables, Alembic migrations, and SQL functions.

Importable without the agent, so that other programs can read the queue. Imports SQLAlchemy and Alembic only.
"""

HEAD = "0006"
"""The newest schema revision this program knows: the last migration in ``versions``. Stated here so that a
start needs not import Alembic to find out that there is nothing to do."""

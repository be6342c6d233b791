"""What lasts: sessions and their runs, in SQLite or any database SQLAlchemy speaks to."""

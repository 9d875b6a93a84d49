"""What the migrations make, as a listing that is checked in: released versions cannot change it
unseen, and a reviewer sees what a change does to tables, signatures and rights.

TSROLLUP_UPDATE_DOCS=1 (`make docs`) writes the listing anew.
"""

import os
from pathlib import Path

import psycopg

from schema_listing import listing

LISTING = Path(__file__).parent / "schema.txt"


def test_the_listing_is_what_the_migrations_make(db: psycopg.Connection) -> None:
    made = listing(db)
    if os.environ.get("TSROLLUP_UPDATE_DOCS"):
        LISTING.write_text(made)
    assert made == LISTING.read_text(), "if that is meant: make docs"

"""Test the tables of group `serving` on a small fleet whose answers are made up, in this process."""

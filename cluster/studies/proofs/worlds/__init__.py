"""Worlds where edits matter: no counter-example, a rare weakness, two shortcuts, wrong labels."""

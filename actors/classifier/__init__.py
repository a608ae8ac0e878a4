"""The classifier under test, of whatever kind, behind one door."""

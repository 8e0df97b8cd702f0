"""The `serving` scenario: whole servers under load, ours and its peers."""

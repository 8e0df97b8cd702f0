"""What the scenarios that train share."""

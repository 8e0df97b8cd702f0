"""Who made a bundle and of what: signatures and a bill of materials."""

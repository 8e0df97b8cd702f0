"""How each protocol asks and is answered; one file each. They know the texts and the labels, not the engine."""

"""What the scenario `ablations` is made of: the levers, how an arm is trained, what the rows say."""

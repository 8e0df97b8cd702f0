"""Everything of distillation that needs torch: models, students, losses, soft targets, the one loop."""

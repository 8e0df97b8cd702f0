"""Teachers: who they are, what must hold of them, and their answers. A torch room."""

"""Transfer learning: choosing a source model, carrying it over to a task, and knowing what it brought. A torch room."""

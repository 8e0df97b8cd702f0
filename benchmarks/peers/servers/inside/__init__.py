"""What runs beside a server: the models that serve, which import its packages, and the folder that they serve."""

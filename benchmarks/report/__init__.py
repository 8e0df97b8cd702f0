"""What is made of result files: tables, pictures, pages, comparisons."""

"""The pages of the documentation, and in `tools` what builds the site from them."""

"""Recipes and the schema that reads them."""

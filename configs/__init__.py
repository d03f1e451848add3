"""Recipes as YAML files: a recipe states what differs from the defaults. Found by globbing, see `pipelines/recipes.py`."""

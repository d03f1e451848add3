"""Recipes as YAML files, each stating what differs from the defaults; `pipelines/recipes.py` finds them by globbing."""

"""Migrations of the project's model."""

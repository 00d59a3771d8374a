"""Raises while it is imported."""


def deep():
    raise ValueError("the application could not be imported")


deep()

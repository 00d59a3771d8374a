"""A Django project with one page: a form with CSRF protection that takes a file."""

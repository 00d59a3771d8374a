"""A Django project as a user would deploy it: admin, static files, forms, uploads, sqlite."""

"""Django's command line for the project: the tests migrate and make an administrator with it."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_of_tests.settings")
    execute_from_command_line(sys.argv)

"""Has both default names: `application` comes first."""

from attributes import say

app = say(b"app")
application = say(b"application")

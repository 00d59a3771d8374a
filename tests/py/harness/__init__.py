"""The harness of the conformance suite: it starts the real server and the real nginx and speaks raw
bytes to them. Nothing here retries, sleeps for readiness or uses a fixed port.

Modules: `address` (where to connect), `client` (raw HTTP client with a strict response reader),
`uwsgi` (packet encoder), `server` (the ringhorn process), `nginx`, `fronts` (the ways a request can
reach the application), `process` (what /proc says), `watch` (bounded waits).
"""

"""The publisher: turns a build into signed TUF metadata over a directory of static files.

What it makes is served by any web server or CDN. The updater on the device shares no code with it.
"""

"""OCI hooks: what runc calls for a bundle that carries them.

Each is started for every container, so they import ``os`` and C modules only.
"""

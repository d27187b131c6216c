"""torpor: OCI containers as systemd services that sleep on stop and wake on start.

Modules of this package are nouns (the state directory, runc, CRIU, cgroups ...);
``torpor.commands`` and ``torpor.hooks`` are the verbs that call them.
"""

__version__ = "0.1.0"

"""What units and people call: one verb per module."""

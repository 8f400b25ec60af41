"""The least that a project needs: a number learned from a few others. Start your own from it with `common.scaffold`."""

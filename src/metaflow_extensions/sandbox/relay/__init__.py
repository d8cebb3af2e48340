"""The narrow channel between a sandbox and the launcher: frames, policy, the answers."""

"""What a sandbox costs, as ratios inside one run against the same flow run plainly."""

"""What the machine offers: its clock, its service manager. No-ops where it does not."""

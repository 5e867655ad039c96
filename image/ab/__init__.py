"""The machine below edge: two slots, signed updates, a trial that must prove itself, settings.

Runs on the device with Debian's Python alone, so that it works when edge does not.

boards.py   which slot starts, and how another is tried once: a file of one sector
update.py   a signed update into the slot that is not running
trial.py    the first boot of an update: keep it or give it up
setup.py    settings from the boot partition, once
grow.py     the state partition takes the rest of the card
disk.py     the partitions, and writing to the boot partition so that a power cut is harmless
"""

"""boot-health: what a new system must prove before the boot loader may call it good."""

"""The virtual T640: a QEMU machine like the real one, the stand-in image it boots, and a clinic around it.

It is a test rig. The stand-in is Debian around the appliance's own disk layout, boot chain, unit files and Python
packages; the product is the NixOS image.
"""

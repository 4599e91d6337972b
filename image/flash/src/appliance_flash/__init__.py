"""Writes the appliance's installation media and disk images, verified, and puts a site's settings on them."""

# The appliance as an image: a disk nobody edits, updated as a whole. Import this in a host.
{
  imports = [
    ./appliance.nix
    ./disk.nix
    ./first-boot.nix
    ./seed
    ./recovery.nix
    ./update-bundle.nix
  ];
}

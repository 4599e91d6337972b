# The product's image as a node of a test: uncompressed, because the test starts from the raw file.
{ lib, ... }:
{
  imports = [
    ../../hosts/t640
    ./machine-t640.nix
  ];
  image.repart.compression.enable = lib.mkForce false;
}

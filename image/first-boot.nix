# What the device does to its own disk: at the first boot systemd-repart adds slot B and the state,
# and at later boots it finds everything in place. An update fills the other slot.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (import ../lib/layout.nix { inherit lib; }) deviceDefinitions transfers;

  ini = pkgs.formats.ini { };
in
{
  boot.initrd.systemd.repart = {
    enable = true;
    # The disk the running slot is on, found through /usr: the root is a tmpfs.
    device = null;
  };

  systemd.repart.partitions = deviceDefinitions config.system.image.version;

  # Not systemd.sysupdate.transfers: that brings a timer of its own, and here the updater decides
  # when, and only after it has verified every byte.
  environment.etc = lib.mapAttrs' (name: definition: {
    name = "sysupdate.d/${name}.transfer";
    value.source = ini.generate "${name}.transfer" definition;
  }) transfers;
}

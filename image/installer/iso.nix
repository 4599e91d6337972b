# The installation medium: starts, asks on the console, writes the image of `target` to the internal
# disk. It shares no module with the appliance.
{ target }:
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout minimumMib;

  inherit (target.config.system.image) id version;
  image = "${target.config.system.build.image}/${target.config.image.filePath}";
  name = baseNameOf target.config.image.filePath;

  # What the installer has to know before it writes: which blocks of the image matter and what is in them, and how
  # large a disk has to be for what the first boot adds.
  contents = pkgs.runCommand "${id}-contents" { nativeBuildInputs = [ pkgs.appliance-flash ]; } ''
    mkdir $out
    ln -s ${image} ${name}
    appliance-flash map ${name} --output $out/${id}.bmap
    {
      echo "image=${name}"
      echo "map=${id}.bmap"
      echo "map_sha256=$(sha256sum $out/${id}.bmap | cut -d ' ' -f 1)"
      echo "version=${version}"
      echo "minimum_mib=${toString minimumMib}"
      echo "sector_size=${toString layout.image.sector_size}"
    } > $out/description
  '';
in
{
  imports = [ "${modulesPath}/installer/cd-dvd/iso-image.nix" ];

  isoImage = {
    makeEfiBootable = true;
    makeUsbBootable = true;
    volumeID = lib.toUpper "${layout.image.id}_INSTALL";
    contents = [
      {
        source = image;
        target = "/images/${name}";
      }
      {
        source = "${contents}/description";
        target = "/images/description";
      }
      {
        source = "${contents}/${id}.bmap";
        target = "/images/${id}.bmap";
      }
    ];
  };
  image.baseName = lib.mkForce "${id}-installer-${version}";

  networking.hostName = "installer";
  networking.useDHCP = false;
  networking.firewall.enable = true;
  users.allowNoPasswordLogin = true;
  documentation.enable = false;
  hardware.enableRedistributableFirmware = true;

  environment.systemPackages = [ pkgs.install-appliance ];

  # The installer has the first console to itself; a shell is on the second.
  systemd.services."getty@tty1".enable = false;
  systemd.services."autovt@tty1".enable = false;
  systemd.packages = [ pkgs.install-appliance ];
  systemd.services.install-appliance = {
    wantedBy = [ "multi-user.target" ];
    after = [ "systemd-udev-settle.service" ];
    conflicts = [ "getty@tty1.service" ];
  };
  services.getty.autologinUser = "root";

  system.stateVersion = "26.11";
}

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

  # What the installer has to know before it writes: the image's real size and digest, and how large
  # a disk has to be for what the first boot adds.
  description = pkgs.runCommand "${id}-description" { nativeBuildInputs = [ pkgs.zstd ]; } ''
    {
      echo "image=${name}"
      echo "version=${version}"
      echo "minimum_mib=${toString minimumMib}"
      echo "size=$(zstd --decompress --stdout ${image} | wc -c)"
      echo "sha256=$(zstd --decompress --stdout ${image} | sha256sum | cut -d ' ' -f 1)"
    } > $out
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
        source = description;
        target = "/images/description";
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
  systemd.services.install-appliance = {
    description = "Appliance installer on the console";
    wantedBy = [ "multi-user.target" ];
    after = [
      "multi-user.target"
      "systemd-udev-settle.service"
    ];
    conflicts = [ "getty@tty1.service" ];
    serviceConfig = {
      Type = "idle";
      ExecStart = lib.getExe pkgs.install-appliance;
      StandardInput = "tty-force";
      StandardOutput = "tty";
      StandardError = "tty";
      TTYPath = "/dev/tty1";
      TTYReset = true;
      TTYVHangup = true;
      # Declined or failed: the person reads why, and may start again.
      Restart = "on-failure";
      RestartSec = "15s";
      RestartPreventExitStatus = "2";
    };
  };
  services.getty.autologinUser = "root";

  system.stateVersion = "26.11";
}

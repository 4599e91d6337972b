# The running system of the image: volatile root, read-only /usr and /etc, state in /var.
{
  config,
  lib,
  modulesPath,
  ...
}:

let
  inherit (import ../lib/layout.nix { inherit lib; }) layout esp state;
in
{
  imports = [
    "${modulesPath}/profiles/image-based-appliance.nix"
    "${modulesPath}/profiles/perlless.nix"
  ];

  appliance.identity.enable = true;

  fileSystems = {
    "/" = {
      fsType = "tmpfs";
      options = [
        "mode=0755"
        "size=25%"
      ];
    };

    # Identity, evidence and journal. Needed early: accounts and the machine's files are in it.
    ${state.mount_point} = {
      device = "/dev/disk/by-partlabel/${state.label}";
      fsType = state.filesystem;
      neededForBoot = true;
      options = [
        "nodev"
        "nosuid"
        "x-systemd.growfs"
      ];
    };

    # Writable: blessing a boot and installing an update rename files on it.
    "/boot" = {
      device = "/dev/disk/by-partlabel/${esp.label}";
      fsType = esp.filesystem;
      options = [
        "nodev"
        "nosuid"
        "noexec"
        "umask=0077"
      ];
    };
  };

  boot = {
    loader.grub.enable = false;
    initrd.systemd.enable = true;
    kernelParams = layout.boot.command_line;
    uki = {
      name = layout.image.id;
      inherit (layout.boot) tries;
    };
  };

  system.etc.overlay = {
    enable = true;
    mutable = false;
  };
  services.userborn.enable = true;

  # /usr is the read-only slot, so there is no /usr/bin/env; nothing on the device needs it.
  system.activationScripts.usrbinenv = lib.mkForce "";

  # A read-only /etc has no place for keys made at run time.
  services.openssh.hostKeys = [
    {
      type = "ed25519";
      path = "/var/lib/ssh/ssh_host_ed25519_key";
    }
  ];

  assertions = [
    {
      assertion = config.system.boot.loader.ukiFile == lib.replaceStrings [ "@v" ] [ config.system.image.version ] layout.esp.uki_first;
      message = ''
        The boot entry would be called ${config.system.boot.loader.ukiFile}, but image/layout.toml and the updater
        expect ${layout.esp.uki_first}. Leave boot.uki.name, boot.uki.version and boot.uki.tries to image/appliance.nix.
      '';
    }
    {
      assertion = lib.elem "/boot" layout.esp.mount_points;
      message = "image/layout.toml no longer names /boot among esp.mount_points, so the updater would not find the ESP there.";
    }
  ];
}

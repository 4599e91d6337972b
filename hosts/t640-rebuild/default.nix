# The same appliance as a NixOS host with generations, for a workshop or a pilot site. The boot
# loader counts the tries of each new generation, the same gate blesses it, and the same updater installs what an
# order names or what appliance.generations.follow finds, and goes back.
#
# By hand: deploy with `nixos-rebuild boot --flake .#t640-rebuild --target-host root@HOST` and reboot. Never
# with `switch` in the field: it changes the running system without a trial.
{
  config,
  lib,
  ...
}:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout esp;
in
{
  imports = [ ../../modules ];

  appliance = {
    enable = true;
    hardware.t640.enable = true;
    identity.enable = true;
    generations.enable = true;
  };

  services = {
    compliance-agent.enable = true;
    network-scanner.enable = true;
    local-portal.enable = true;

    # The deployer comes in by key; keys are given with users.users.root.openssh.authorizedKeys.
    openssh = {
      enable = true;
      settings = {
        PasswordAuthentication = false;
        KbdInteractiveAuthentication = false;
        PermitRootLogin = "prohibit-password";
      };
    };
  };

  boot = {
    loader = {
      efi.canTouchEfiVariables = true;
      systemd-boot = {
        enable = true;
        editor = false;
        # Few, because each keeps a kernel and an initrd on the ESP.
        configurationLimit = 5;
        bootCounting = {
          enable = true;
          inherit (layout.boot) tries;
        };
      };
    };
    initrd.systemd.enable = true;
    kernelParams = lib.filter (argument: lib.hasInfix "panic=" argument || lib.hasPrefix "oops=" argument) layout.boot.command_line;
  };

  fileSystems = {
    "/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "ext4";
    };
    "/boot" = {
      device = "/dev/disk/by-partlabel/${esp.label}";
      fsType = esp.filesystem;
      options = [ "umask=0077" ];
    };
  };

  # Both run when a person asks for them, and not while a generation waits or is on trial.
  nix.gc.automatic = false;
  system.autoUpgrade.enable = false;

  assertions = [
    {
      assertion = config.boot.loader.systemd-boot.bootCounting.enable;
      message = "hosts/t640-rebuild relies on boot counting: without it a generation that does not come up is booted for ever.";
    }
  ];

  system.stateVersion = "26.11";
}

# A provider's Central Command on one server: PostgreSQL on the same host, TLS from ACME or a CA of
# its own. The provider adds its disks, its name and its certificates.
{
  config,
  lib,
  modulesPath,
  ...
}:
{
  imports = [
    ../../modules
    "${modulesPath}/profiles/headless.nix"
  ];

  networking = {
    hostName = "central";
    nftables.enable = true;
    firewall.enable = true;
    useNetworkd = true;
  };

  services.central-command = {
    enable = true;
    openFirewall = true;
    database.createLocally = true;
    tls = {
      certificateFile = lib.mkDefault "/var/lib/central-command-tls/fullchain.pem";
      keyFile = lib.mkDefault "/var/lib/central-command-tls/key.pem";
    };
    settings = {
      host = "0.0.0.0";
      public_url = "https://${config.networking.fqdnOrHostName}";
    };
  };

  # A first form of a server; replaced by what the provider's machine has.
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  fileSystems."/boot" = {
    device = "/dev/disk/by-label/ESP";
    fsType = "vfat";
    options = [ "umask=0077" ];
  };
  boot.loader.systemd-boot.enable = true;

  system.stateVersion = "26.11";
}

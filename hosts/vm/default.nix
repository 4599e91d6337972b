# The appliance in a QEMU window, to look at its services: `nix run .#vm`, then
# https://localhost:8443/. Not the image; for that boot the T640 of vm-tests/t640.
{
  lib,
  modulesPath,
  ...
}:
{
  imports = [
    ../../modules
    "${modulesPath}/virtualisation/qemu-vm.nix"
  ];

  appliance = {
    enable = true;
    identity.enable = true;
    watchdog.enable = false;
  };

  services = {
    compliance-agent.enable = true;
    network-scanner.enable = true;
    local-portal.enable = true;
    # Somebody sits in front of this one.
    getty.autologinUser = "root";
  };

  systemd.enableEmergencyMode = true;

  virtualisation = {
    cores = 2;
    memorySize = 4096;
    diskSize = 8192;
    forwardPorts = [
      {
        from = "host";
        host.port = 8443;
        guest.port = 443;
      }
    ];
  };

  # Beside qemu-vm.nix, so that the host also evaluates as an ordinary system.
  boot.loader.grub.enable = lib.mkDefault false;

  system.stateVersion = "26.11";
}

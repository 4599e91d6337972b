# The product: an image on an HP T640, updated by the appliance's own updater.
{
  imports = [
    ../../modules
    ../../image
  ];

  appliance = {
    enable = true;
    hardware.t640.enable = true;
    update.enable = true;
    lifeline.enable = true;
  };

  services = {
    compliance-agent.enable = true;
    network-scanner.enable = true;
    local-portal.enable = true;
  };

  system.stateVersion = "26.11";
}

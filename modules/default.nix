# Every module of this repository. None does anything until its `enable` option is set.
{
  imports = [
    ./appliance/base.nix
    ./appliance/clock.nix
    ./appliance/demotion.nix
    ./appliance/firewall.nix
    ./appliance/generations.nix
    ./appliance/hardware/t640.nix
    ./appliance/health-gate.nix
    ./appliance/identity.nix
    ./appliance/lifeline.nix
    ./appliance/network.nix
    ./appliance/secure-boot.nix
    ./appliance/update.nix
    ./appliance/watchdog.nix
    ./central-command.nix
    ./compliance-agent.nix
    ./local-portal.nix
    ./network-scanner.nix
  ];
}
